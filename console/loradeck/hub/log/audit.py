"""The audit trail at the hub: what everybody did or tried to do, written in batches, its head anchored in the log.

Nobody waits for it: a line is noted in memory, the store gets what was noted once a second, and once a minute an event
of the log names the head. Nodes hold signed positions of the log, so that from then on no line can be changed or
dropped unnoticed. A hub that is killed loses the lines of its last second.

Of calls it has all that may change something, and reads that a handler has marked.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from loradeck.hub.access.auth import CALLER, Caller
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.audit import ATTESTED, AuditDraft
from loradeck.schemas.ids import PointerKey, Role, digest_of
from loradeck.schemas.log import FLEET, Draft, EventKind
from loradeck.schemas.position import AuditHead
from loradeck.store.interface import StoreError

FLUSH_S = 1.0
"""Seconds between two writes of what was noted."""

ANCHOR_S = 60.0
"""Seconds between two anchors in the log."""

HELD = 10_000
"""Lines held in memory while the store refuses them. Beyond it they are counted, and the count becomes a line."""

DECIDING = frozenset(
    {
        AttestationKind.EVALUATION,
        AttestationKind.GATE,
        AttestationKind.COMPARISON,
        AttestationKind.REVIEW,
        AttestationKind.SIGNATURE,
        AttestationKind.REVOCATION,
        AttestationKind.SOAKED,
        AttestationKind.BREACHED,
        AttestationKind.FLAG,
        AttestationKind.DEPRECATION,
        AttestationKind.ACKNOWLEDGED,
        AttestationKind.LEDGER,
        AttestationKind.ASSESSMENT,
        AttestationKind.OPT_OUT,
        AttestationKind.SHARED,
        AttestationKind.ERASURE,
        AttestationKind.ERASED_ELSEWHERE,
    }
)
"""Attestations that a gate, a promote, an erasure or where R goes rests on: one that was edited or deleted is found by
its digest.

Not among them are canaries, which come from nodes as often as those like, and that a generation is proven, which comes
with each move and from each node.
"""

HUB = "hub"
"""The actor of what the hub does by itself."""

log = logging.getLogger("loradeck.hub.audit")


@dataclass(eq=False)
class AuditTrail:
    """Notes lines, writes them, and anchors their head. `may_commit`: whether the log takes events now."""

    _log: Log
    _store: StoreThread
    _may_commit: Callable[[], bool]
    _noted: list[AuditDraft] = field(default_factory=list, init=False)
    _lost: int = field(default=0, init=False)
    _refused: bool = field(default=False, init=False)
    _head: AuditHead = field(init=False)
    anchored: AuditHead | None = field(default=None, init=False)
    """The newest head that the log has anchored; None: none since the hub started."""

    def __post_init__(self) -> None:
        self._head = self._store.now(lambda s: s.audit_head())

    def begin(self, tokens: Sequence[str]) -> None:
        """Begins an empty trail with the ids of the tokens that exist already."""
        if not self._head.size:
            self.note(AuditDraft(actor=HUB, call="begin", subject={"tokens": " ".join(tokens)}))

    def called(self, caller: Caller, call: str, subject: Mapping[str, str], status: int | None = None) -> None:
        """Notes what a caller asked for, and the status of the answer."""
        detail = "signed in before the provider fell silent" if caller.backward else ""
        self.note(draft_of(caller, call, subject, status, detail))

    def note(self, draft: AuditDraft) -> None:
        """Notes a line."""
        if len(self._noted) < HELD:
            self._noted.append(draft)
        else:
            self._lost += 1

    def attested(self, written: Attestation, _: Sequence[PointerKey]) -> None:
        """Notes an attestation that decides what may be served; a follower of attestations."""
        if written.kind in DECIDING:
            subject = {"seq": str(written.seq), "kind": written.kind.value, "of": written.subject}
            self.note(AuditDraft(actor=written.by, call=ATTESTED, subject=subject, detail=digest_of(written)))

    async def flush(self) -> None:
        """Writes what was noted. What the store refuses is held and tried again."""
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        if self._lost:
            noted.append(AuditDraft(actor=HUB, call="lost", detail=f"{self._lost} lines that the store did not take"))
        try:
            head = await self._store(lambda s: s.append_audit(noted), background=True)
            self._head = max(self._head, head, key=lambda one: one.size)
        except StoreError as error:
            kept = [draft for draft in noted if draft.call != "lost"]
            self._noted = kept + self._noted
            if not self._refused:
                log.error("the audit trail cannot be written and is held in memory code=%s %s", error.code, error)
            self._refused = True
        else:
            self._lost, self._refused = 0, False

    async def write(self, draft: AuditDraft) -> int:
        """Writes one line now, and returns its number. Raises: StoreError."""
        head = await self._store(lambda s: s.append_audit([draft]), background=True)
        self._head = max(self._head, head, key=lambda one: one.size)
        return head.size

    async def head(self) -> AuditHead:
        """The head of the trail, with everything that was noted up to now."""
        await self.flush()
        return self._head

    async def anchor(self) -> None:
        """Commits the head of the trail to the log, if it has changed since it was last there."""
        await self.flush()
        head = self._head
        if head == self.anchored or not self._may_commit():
            return
        draft = Draft(
            kind=EventKind.AUDIT, tenant=FLEET, actor=HUB, role=Role.RELEASER, payload=head.model_dump(mode="json")
        )
        async with self._log.moving:
            await self._log.commit([draft], key=f"audit-{self._log.state.epoch}-{head.size}")
        self.anchored = head


def draft_of(
    caller: Caller, call: str, subject: Mapping[str, str], status: int | None = None, detail: str = ""
) -> AuditDraft:
    """The line about a call."""
    return AuditDraft(
        actor=caller.actor,
        role=caller.role,
        token=caller.token,
        call=call,
        subject=subject,
        status=status,
        detail=detail,
    )


MARKED = "loradeck.audit"
"""The key in an ASGI scope under which a handler says what a call was about."""

_PASSED_OVER = "loradeck.audit.none"

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_FILES = ("/v1/blobs/", "/v1/ledger/")
"""Files come in by their digest, hundreds for one adapter. The document that names them is what is recorded; segments
of the answer ledger are anchored together."""


def mark(request: Request, **subject: str) -> None:
    """Says what a call is about, beside the names in its path, and has it recorded even if it is a read."""
    request.scope[MARKED] = subject


def pass_over(request: Request) -> None:
    """Has a call not recorded: data from a node, which says itself where it comes from and comes as often as callers
    like.
    """
    request.scope[_PASSED_OVER] = True


async def audited(trail: AuditTrail, app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Serves a call through an ASGI app, and notes it with the status of its answer.

    The answer to a call that makes a token waits until its line is written: a token without one counts as forged.
    """
    if scope["type"] == "websocket":
        trail.called(scope[CALLER], scope["path"].rpartition("/")[2], {})
        await app(scope, receive, send)
        return
    noted, status = False, None

    def note() -> None:
        nonlocal noted
        method, marked = scope["method"], scope.get(MARKED)
        if (
            not noted
            and _PASSED_OVER not in scope
            and (marked is not None or not (method in _READS or scope["path"].startswith(_FILES)))
        ):
            named = {name: str(value) for name, value in scope.get("path_params", {}).items()}
            path = getattr(scope.get("route"), "path", None) or scope["path"][:200]
            trail.called(scope[CALLER], f"{method} {path}", named | (marked or {}), status)
        noted = True

    async def watched(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            if "token" in (scope.get(MARKED) or {}):
                note()
                await trail.flush()
        await send(message)

    try:
        await app(scope, receive, watched)
    finally:
        note()
