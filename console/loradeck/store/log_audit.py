"""The audit of a store's log: its hash chain, and the state it folds to.

The log is the truth and the stored pointers and tenants are derived, so both are checked: every event against the hash
of the one before, and the whole log folded again from its beginning against the stored state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loradeck.rules.moves.chain import ChainBreak, verify
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.log import Event, EventKind
from loradeck.store.interface import Unreadable
from loradeck.store.sql_log import Store

BATCH = 250
"""Events in one step: about 10 ms, so that a move on this store does not wait long for an audit."""


@dataclass(frozen=True, kw_only=True)
class LogReport:
    """The result of an audit. `rev` and `hash`: how far the log is whole. `broken`: where and why it is not."""

    ok: bool
    rev: int
    hash: str
    broken: ChainBreak | None = None

    def as_json(self) -> dict[str, Any]:
        """The answer to `GET /v1/audit/verify`."""
        broken = {"rev": self.broken.rev, "why": self.broken.why} if self.broken else None
        return {"ok": self.ok, "rev": self.rev, "hash": self.hash, "break": broken}


class LogAudit:
    """One audit, step by step: between two steps the store may be used, and the log may grow."""

    def __init__(self) -> None:
        self._folded = FoldedLog()
        self.anchors: dict[int, str] = {}
        """Size -> root of the audit trail, as the events up to now have anchored it."""

    def step(self, store: Store) -> LogReport | None:
        """Checks the next events, and after the last one the state they fold to. Returns None while there is more to
        do.

        It changes nothing in the store.
        """
        try:
            events = store.since(self._folded.rev, BATCH)
        except Unreadable as error:
            return self._report(ChainBreak(rev=error.rev, why=str(error)))
        if not events:
            return self._report(_compare(store, self._folded))
        broken = self._follow(events)
        return self._report(broken) if broken else None

    def _follow(self, events: Sequence[Event]) -> ChainBreak | None:
        folded = self._folded
        broken = verify(events, prev_hash=folded.hash, first_rev=folded.rev + 1)
        for event in events:
            if broken and event.rev >= broken.rev:
                return broken
            if event.epoch < folded.epoch:  # across two steps `verify` does not see it
                return ChainBreak(rev=event.rev, why=f"epoch {event.epoch} comes after epoch {folded.epoch}")
            if event.kind is EventKind.AUDIT:
                self.anchors[int(event.payload["size"])] = str(event.payload["root"])
            try:
                folded.apply(event)
            except (KeyError, ValueError) as error:
                return ChainBreak(rev=event.rev, why=f"it cannot be folded: {error!r}")
        return broken

    def _report(self, broken: ChainBreak | None) -> LogReport:
        return LogReport(ok=broken is None, rev=self._folded.rev, hash=self._folded.hash, broken=broken)


def _compare(store: Store, folded: FoldedLog) -> ChainBreak | None:
    kept = store.snapshot()
    if (kept.rev, kept.hash) != (folded.rev, folded.hash):
        return ChainBreak(rev=folded.rev, why=f"the store is at rev {kept.rev}, its log ends at rev {folded.rev}")
    if key := _differing({p.key: p for p in kept.pointers}, folded.pointers):
        return ChainBreak(rev=folded.rev, why=f"the stored pointer of {'/'.join(key)} differs from the log")
    if name := _differing({t.name: t for t in kept.tenants}, folded.tenants):
        return ChainBreak(rev=folded.rev, why=f"the stored settings of tenant {name} differ from the log")
    if name := _differing(dict(kept.pools), folded.pools):
        return ChainBreak(rev=folded.rev, why=f"the stored pool {name} differs from the log")
    return None


def _differing(kept: dict[Any, Any], folded: dict[Any, Any]) -> Any:
    """The first key whose values differ, or that one side lacks; None if both are equal."""
    return next((key for key in sorted(kept.keys() | folded.keys()) if kept.get(key) != folded.get(key)), None)
