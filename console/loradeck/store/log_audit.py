"""Whether a store's log is whole: its chain, and what it adds up to.

The log is the truth and the pointers beside it are derived, so both are checked: every event against the
hash of the one before, and the whole log folded again from nothing against what the store serves from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loradeck.rules.moves.chain import ChainBreak, verify
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.log import Event
from loradeck.store.interface import Store, Unreadable

BATCH = 250
"""Events of one step: about 10 ms, so that a move on the same store does not wait long for an audit."""


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


class LogAudit:
    """One audit, step by step: between two steps the store may be used, and the log may grow."""

    def __init__(self) -> None:
        self._ledger = FoldedLog()

    def step(self, store: Store) -> LogReport | None:
        """Check the next events, and once there are none, what they add up to. None: go on. Changes nothing."""
        try:
            events = store.since(self._ledger.rev, BATCH)
        except Unreadable as error:
            return self._report(ChainBreak(rev=error.rev, why=str(error)))
        if not events:
            return self._report(_compare(store, self._ledger))
        broken = self._follow(events)
        return self._report(broken) if broken else None

    def _follow(self, events: Sequence[Event]) -> ChainBreak | None:
        ledger = self._ledger
        broken = verify(events, prev_hash=ledger.hash, first_rev=ledger.rev + 1)
        for event in events:
            if broken and event.rev >= broken.rev:
                return broken
            if event.epoch < ledger.epoch:  # across two steps `verify` does not see it
                return ChainBreak(rev=event.rev, why=f"epoch {event.epoch} comes after epoch {ledger.epoch}")
            try:
                ledger.apply(event)
            except (KeyError, ValueError) as error:
                return ChainBreak(rev=event.rev, why=f"it cannot be folded: {error!r}")
        return broken

    def _report(self, broken: ChainBreak | None) -> LogReport:
        return LogReport(ok=broken is None, rev=self._ledger.rev, hash=self._ledger.hash, broken=broken)


def verify_log(store: Store) -> LogReport:
    """Read the whole log, oldest first, and compare. Changes nothing."""
    audit = LogAudit()
    while (report := audit.step(store)) is None:
        pass
    return report


def _compare(store: Store, ledger: FoldedLog) -> ChainBreak | None:
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
