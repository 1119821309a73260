"""Whether a store's log is whole: its chain, and what it adds up to.

The log is the truth and the pointers beside it are derived, so both are checked: every event against the
hash of the one before, and the whole log folded again from nothing against what the store serves from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loradeck.rules.chain import ChainBreak, verify
from loradeck.rules.fold import Ledger
from loradeck.schemas.log import Event
from loradeck.store.interface import Store, Unreadable

BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class LogReport:
    """`rev` and `hash`: how far the log holds. `broken`: the first place where it does not, with the reason."""

    ok: bool
    rev: int
    hash: str
    broken: ChainBreak | None = None

    def as_json(self) -> dict[str, Any]:
        """The answer of `GET /v1/audit/verify`."""
        broken = {"rev": self.broken.rev, "why": self.broken.why} if self.broken else None
        return {"ok": self.ok, "rev": self.rev, "hash": self.hash, "break": broken}


def verify_log(store: Store) -> LogReport:
    """Read the whole log, oldest first, and compare. Changes nothing."""
    ledger = Ledger()
    try:
        broken = verify(_folding(store, ledger)) or _compare(store, ledger)
    except Unreadable as error:
        broken = ChainBreak(rev=error.rev, why=str(error))
    except (KeyError, ValueError) as error:  # what `Ledger.apply` raises
        broken = ChainBreak(rev=ledger.rev + 1, why=f"rev {ledger.rev + 1} cannot be folded: {error}")
    return LogReport(ok=broken is None, rev=ledger.rev, hash=ledger.hash, broken=broken)


def _folding(store: Store, ledger: Ledger) -> Iterator[Event]:
    """Every event; the ledger takes each in once the reader, having found it whole, asks for the next."""
    while events := store.since(ledger.rev, BATCH):
        for event in events:
            yield event
            ledger.apply(event)


def _compare(store: Store, ledger: Ledger) -> ChainBreak | None:
    kept = store.snapshot()
    if (kept.rev, kept.hash) != (ledger.rev, ledger.hash):
        return ChainBreak(rev=ledger.rev, why=f"the store is at rev {kept.rev}, its log ends at rev {ledger.rev}")
    if key := _differing({p.key: p for p in kept.pointers}, ledger.pointers):
        return ChainBreak(rev=ledger.rev, why=f"the pointer of {'/'.join(key)} is not what the log adds up to")
    if name := _differing({t.name: t for t in kept.tenants}, ledger.tenants):
        return ChainBreak(rev=ledger.rev, why=f"the settings of tenant {name} are not what the log adds up to")
    return None


def _differing(kept: dict[Any, Any], folded: dict[Any, Any]) -> Any:
    """The first key whose values differ, or that one side lacks."""
    return next((key for key in sorted(kept.keys() | folded.keys()) if kept.get(key) != folded.get(key)), None)
