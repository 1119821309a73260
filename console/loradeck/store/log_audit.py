"""The audit of a store: the hash chain of its log and the state it folds to, and the check of its audit trail.

The log is the truth and the stored pointers and tenants are derived, so both are checked: every event against the hash
of the one before, and the whole log folded again from its beginning against the stored state. What can be changed in
the database without changing the log (tokens, attestations) is compared with the lines of the audit trail that recorded
it, and the lines with the heads that the log has anchored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from loradeck.rules.merkle import Frontier
from loradeck.rules.moves.chain import ChainBreak, verify
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.audit import ATTESTED, KEPT, AuditLine
from loradeck.schemas.ids import digest_of
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.position import AuditHead
from loradeck.store.interface import Unreadable
from loradeck.store.sql_log import Store

BATCH = 250
"""Events, or lines of the trail, in one step: about 10 ms, so that a move on this store does not wait long."""


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


CREATED, WITHDRAWN = "POST /v1/tokens", "DELETE /v1/tokens/{token_id}"

MADE = frozenset({(CREATED, 200), ("POST /v1/join-tokens", 200), ("POST /v1/join", 200), (KEPT, None)})
"""Calls that make a record of a token or key, which their subject names as `token`, and their status."""


@dataclass(frozen=True, kw_only=True)
class TrailReport:
    """The result of a check. `broken`: the first fault; None: there is none."""

    head: AuditHead
    broken: str | None = None


@dataclass(eq=False)
class AuditCheck:
    """One check, step by step.

    Args:
        anchors: size -> root, as the log has them.
        signed: size -> node -> root, of the heads that nodes have signed.
    """

    anchors: Mapping[int, str]
    signed: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    _tree: Frontier = field(default_factory=Frontier, init=False)
    _made: set[str] = field(default_factory=set, init=False)
    _records: dict[str, str] = field(default_factory=dict, init=False)
    """Token or key -> digest of its record, where the line that made it binds that."""
    _withdrawn: set[str] = field(default_factory=set, init=False)
    _attested: dict[int, str] = field(default_factory=dict, init=False)
    _contradicted: list[str] = field(default_factory=list, init=False)

    def step(self, store: Store) -> TrailReport | None:
        """Checks the next lines, and after the last one what they say of tokens and attestations. Returns None while
        there is more to do.
        """
        texts = store.audit_texts(self._tree.size, BATCH)
        if not texts:
            return self._report(next(self._faults(store), None))
        for seq, text in texts:
            if seq != self._tree.size + 1:
                return self._report(f"line {self._tree.size + 1} is missing")
            self._tree = self._tree.extended([text.encode()])
            anchored = self.anchors.get(seq)
            if anchored is not None and anchored != self._tree.head.root:
                return self._report(f"a line up to {seq} was changed: the log has anchored another root")
            if seq in self.signed:
                self._compare(seq)
            try:
                self._read(AuditLine.model_validate_json(text))
            except (ValidationError, KeyError, ValueError) as error:
                return self._report(f"line {seq} cannot be read: {type(error).__name__}")
        return None

    def _compare(self, seq: int) -> None:
        by, root = self.signed[seq], self._tree.head.root
        others = sorted(node for node, signed in by.items() if signed != root)
        if others:
            same = ", ".join(sorted(by.keys() - set(others))) or "no node"
            signed = f"{', '.join(others)} signed another head of {seq} lines than these have"
            self._contradicted.append(f"{signed}; {same} signed this one")

    def _read(self, line: AuditLine) -> None:
        subject = line.subject
        if line.call == "begin":
            self._made.update(subject["tokens"].split())
        elif (line.call, line.status) in MADE:
            self._made.add(subject["token"])
            if "record" in subject:
                self._records[subject["token"]] = subject["record"]
        elif line.call == WITHDRAWN and line.status == 204:
            self._withdrawn.add(subject["token_id"])
        elif line.call == ATTESTED:
            self._attested[int(subject["seq"])] = line.detail
        if line.status == 200:
            self._withdrawn.update(subject.get("withdrawn", "").split())

    def _faults(self, store: Store) -> Iterator[str]:
        longest = max(self.anchors, default=0)
        if longest > self._tree.size:
            yield f"lines {self._tree.size + 1} to {longest}, which the log has anchored, are missing"
        if store.audit_head() != self._tree.head:
            yield "the stored root is not that of the lines"
        yield from self._contradicted
        for size in sorted(size for size in self.signed if size > self._tree.size):
            names = ", ".join(sorted(self.signed[size]))
            yield f"{names} signed a head of {size} lines, and here are {self._tree.size}"
        for token in store.tokens():
            if token.id not in self._made and self._tree.size:
                yield f"token {token.id} ({token.name}) was not made by a call"
            if self._records.get(token.id, token.digest) != token.digest:
                yield f"token {token.id} ({token.name}) opens something else than what was made"
            if token.id in self._withdrawn and not token.revoked:
                yield f"token {token.id} ({token.name}) was withdrawn, and is valid"
        stored = {attestation.seq: attestation for attestation in store.attestations()} if self._attested else {}
        for seq, digest in self._attested.items():
            found = stored.get(seq)
            if found is None:
                yield f"attestation {seq} is missing"
            elif digest_of(found) != digest:
                yield f"the {found.kind.value} of {found.subject[:12]} (attestation {seq}) was changed"

    def _report(self, broken: str | None) -> TrailReport:
        return TrailReport(head=self._tree.head, broken=broken)
