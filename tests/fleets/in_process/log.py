"""A hub's log in memory, made of the rules alone, and short ways to say what is moved on it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from loradeck.rules.moves import chain, forward, records, rewind, rollbacks
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.rollback_target import PointerFacts, Target, rollback_target
from loradeck.schemas.attestation import CheckResult, GateResult
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.log import Draft, Event, PointerState
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.moves import (
    FallbackRequest,
    HoldRequest,
    LiftRequest,
    PromoteRequest,
    RewindPlan,
    RewindRequest,
    RollbackRequest,
    UndoRequest,
)
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import ReleaseRef, TableEntry
from loradeck.schemas.tenant import TenantState

OPERATOR = Actor(name="op1", role=Role.OPERATOR)
RELEASER = Actor(name="rel1", role=Role.RELEASER)
PIPELINE = Actor(name="ci-bot", role=Role.RELEASER)

GUARD = Actor(name="guard", role=Role.OPERATOR, automation=True)

ACME: PointerKey = ("acme", "production")


def digest(word: str) -> str:
    return sha256(word.encode()).hexdigest()


def release(label: str, tenant: str = "acme", base: str = "B1") -> Release:
    if label == "base":
        return Release(tenant=tenant, form=Form.BASE, base=digest(base), label="base")
    return Release(
        tenant=tenant, form=Form.ADAPTER, base=digest(base), adapter=digest(f"{tenant} {label}"), label=label
    )


def ref(label: str, tenant: str = "acme", base: str = "B1") -> ReleaseRef:
    one = release(label, tenant, base)
    return ReleaseRef(id=one.id, release=one, label=label)


def rid(label: str, tenant: str = "acme") -> str:
    return release(label, tenant).id


def entry(label: str | None, generation: int, *, epoch: int = 1, beneath: Sequence[str] = ()) -> TableEntry:
    return TableEntry(
        tenant="acme",
        route="production",
        epoch=epoch,
        generation=generation,
        current=ref(label) if label else None,
        beneath=tuple(ref(b) for b in beneath),
    )


def facts(
    *attested: str, unsoaked: Sequence[str] = (), breached: Sequence[str] = (), revoked: Sequence[str] = ()
) -> PointerFacts:
    """What is known of acme's releases, by label. All attested ones are soaked but those named."""
    return PointerFacts(
        attested=tuple(rid(a) for a in attested),
        soaked=frozenset(rid(a) for a in attested if a not in unsoaked),
        breached={rid(b): "bad 31.0% of 2310" for b in breached},
        revoked={rid(r): "leaks a customer's name" for r in revoked},
    )


def gate_result(candidate: str, against: str | None, *, passed: bool) -> GateResult:
    check = CheckResult(name="exact", passed=passed, value=0.7, threshold=0.9, n=100, low=0.6, high=0.8)
    return GateResult(
        release=rid(candidate),
        against=rid(against) if against else None,
        suite=digest("suite"),
        passed=passed,
        checks=(check,),
    )


class Stale(Exception):
    """The simulated store found another generation inside its transaction."""


class SimulatedLog:
    """Commits drafts all or nothing, as a store does, and keeps the ledger folded."""

    def __init__(self, ids: Iterator[int] | None = None) -> None:
        self.events: list[Event] = []
        self.ledger = FoldedLog()
        self.epoch = 1
        self.clock_ms = 1_767_225_600_000
        self._ids = ids if ids is not None else itertools.count(1)

    def commit(self, *drafts: Draft) -> list[Event]:
        for draft in drafts:
            expected, pointer = draft.expected_generation, draft.pointer
            if expected is not None and pointer is not None and self.pointer(pointer.key).generation != expected:
                raise Stale
        txn = self._id()
        self.clock_ms += 1000
        committed = []
        for draft in drafts:
            event = chain.seal(
                draft,
                rev=self.ledger.rev + 1,
                id=self._id(),
                txn=txn,
                epoch=self.epoch,
                at_ms=self.clock_ms,
                prev_hash=self.ledger.hash,
            )
            self.ledger.apply(event)
            self.events.append(event)
            committed.append(event)
        return committed

    def pointer(self, key: PointerKey = ACME) -> PointerState:
        return self.ledger.pointers.get(key) or PointerState(tenant=key[0], route=key[1])

    def pointers_at(self, rev: int) -> dict[PointerKey, PointerState]:
        ledger = FoldedLog()
        ledger.extend(self.events[:rev])
        return ledger.pointers

    def before(self, events: Sequence[Event]) -> dict[PointerKey, PointerState]:
        states = {}
        for event in events:
            assert event.pointer is not None
            was = self.pointers_at(event.rev - 1).get(event.pointer.key)
            if was is not None:
                states[event.pointer.key] = was
        return states

    def txn(self, txn: str) -> list[Event]:
        return [e for e in self.events if e.txn == txn]

    def copy(self) -> SimulatedLog:
        """An older copy of the database; ids go on where they are, as random ones would."""
        twin = SimulatedLog(self._ids)
        twin.events, twin.ledger = list(self.events), copy.deepcopy(self.ledger)
        twin.epoch, twin.clock_ms = self.epoch, self.clock_ms
        return twin

    def _id(self) -> str:
        return f"{next(self._ids):032x}"


REGISTERED = frozenset(rid(name) for name in ("base", *(f"v{i}" for i in range(40))))
"""Releases that a registry has."""


class Acme:
    """acme's production pointer, and moves on it by label. Every move checks what an operator would see."""

    def __init__(self) -> None:
        self.log = SimulatedLog()
        self.facts = PointerFacts()
        self.config = RouteConfig()
        self.gates: list[GateResult] = []
        self.tenant = TenantState(name="acme")
        self.pending: str | None = None

    @property
    def pointer(self) -> PointerState:
        return self.log.pointer()

    @property
    def live(self) -> str | None:
        return self.label(self.pointer.release)

    @property
    def beneath(self) -> list[str | None]:
        return [self.label(r) for r in self.pointer.beneath]

    @property
    def quarantined(self) -> list[str | None]:
        return [self.label(q.release) for q in self.pointer.quarantined]

    @staticmethod
    def label(release_id: str | None) -> str | None:
        names = {rid(name): name for name in ("base", *(f"v{i}" for i in range(40)))}
        return names[release_id] if release_id else None

    def target(self) -> Target:
        return rollback_target(
            self.pointer,
            self.facts,
            fallback_allowed=self.config.fallback,
            live_is_base=self.pointer.release == rid("base"),
            pending_prepare=self.pending,
        )

    def promote(
        self,
        label: str,
        *,
        attest: bool = True,
        actor: Actor = RELEASER,
        override: bool = False,
        reason: str = "",
        generation: int | None = None,
        now_ms: int = 0,
    ) -> Event:
        """Promotes, and afterwards counts the release as attested and soaked unless told otherwise."""
        request = PromoteRequest(
            release=rid(label),
            expected_generation=self.pointer.generation if generation is None else generation,
            idempotency_key="promote-key",
            override=override,
            reason=reason,
        )
        passed = forward.check_promote(
            self.pointer,
            request,
            self.facts,
            self.config,
            actor=actor,
            release=release(label),
            gate_results=self.gates,
            tenant=self.tenant,
            now_ms=now_ms,
            slots_ok=True,
            base_placed=True,
        )
        (event,) = self.log.commit(
            forward.promote(self.pointer, request, actor, attested=self.facts.attested, overridden=passed)
        )
        if attest:
            self.attest(label)
        return event

    def attest(self, *labels: str, soak: bool = True) -> None:
        for label in labels:
            attested = (rid(label), *(a for a in self.facts.attested if a != rid(label)))
            soaked = self.facts.soaked | {rid(label)} if soak else self.facts.soaked
            self.facts = PointerFacts(
                attested=attested, soaked=soaked, breached=self.facts.breached, revoked=self.facts.revoked
            )

    def breach(self, label: str) -> None:
        breached = {**self.facts.breached, rid(label): "bad 31.0% of 2310"}
        self.facts = PointerFacts(
            attested=self.facts.attested, soaked=self.facts.soaked, breached=breached, revoked=self.facts.revoked
        )

    def revoke(self, label: str) -> None:
        revoked = {**self.facts.revoked, rid(label): "leaks a customer's name"}
        self.facts = PointerFacts(
            attested=self.facts.attested, soaked=self.facts.soaked, breached=self.facts.breached, revoked=revoked
        )

    def rollback_request(self, *, confirmed: bool = False) -> RollbackRequest:
        """What a console sends that shows the pointer as it is now."""
        target = self.target()
        return RollbackRequest(
            expected_generation=self.pointer.generation,
            to=target.release,
            cancels=target.prepare,
            confirmed=confirmed,
            idempotency_key="rollback-key",
        )

    def rollback(
        self, request: RollbackRequest | None = None, *, confirmed: bool = False, actor: Actor = OPERATOR
    ) -> Event:
        draft = rollbacks.rollback(
            self.pointer, request or self.rollback_request(confirmed=confirmed), self.target(), actor
        )
        assert isinstance(draft, Draft), "R cancels a prepare here"
        (event,) = self.log.commit(draft)
        return event

    def fallback(self) -> Event:
        request = FallbackRequest(expected_generation=self.pointer.generation, idempotency_key="fallback-key")
        (event,) = self.log.commit(
            rollbacks.fallback(self.pointer, request, OPERATOR, rid("base"), allowed=self.config.fallback)
        )
        return event

    def undo(self, event: Event, reason: str = "") -> Event:
        request = UndoRequest(event=event.id, confirmed=True, idempotency_key="undo-key-1", reason=reason)
        drafts = rollbacks.undo(
            self.log.ledger.pointers,
            [event],
            self.log.before([event]),
            request,
            OPERATOR,
            revoked=self.facts.revoked,
        )
        (undone,) = self.log.commit(*drafts)
        return undone

    def hold(self, held: bool, actor: Actor = OPERATOR, *, set_by: Event | None = None, reason: str = "") -> Event:
        said = {"expected_generation": self.pointer.generation, "idempotency_key": "hold-key-1", "reason": reason}
        request = HoldRequest.model_validate({"held": held, **said})
        (event,) = self.log.commit(records.hold(self.pointer, request, actor, set_by))
        return event

    def lift(self, label: str) -> Event:
        request = LiftRequest(release=rid(label), idempotency_key="lift-key-1", reason="it was the node")
        (event,) = self.log.commit(records.lift(self.pointer, request, RELEASER))
        return event

    def rewind_plan(self, to_rev: int, **request: Any) -> RewindPlan:
        return rewind.plan(
            self.log.ledger.pointers,
            self.log.pointers_at(to_rev),
            RewindRequest(to_rev=to_rev, idempotency_key="rewind-key", **request),
            {ACME: self.facts},
            to_rev=to_rev,
            at_ms=None,
            known=REGISTERED,
        )

    def rewind(self, to_rev: int) -> list[Event]:
        """Plans and executes at once."""
        seen = {f"{s.tenant}/{s.route}": s.generation for s in self.rewind_plan(to_rev).steps}
        request = RewindRequest(to_rev=to_rev, dry_run=False, generations=seen, idempotency_key="rewind-key")
        plan = self.rewind_plan(to_rev, dry_run=False, generations=seen)
        now, then = self.log.ledger.pointers, self.log.pointers_at(to_rev)
        return self.log.commit(*rewind.drafts(plan, now, then, request, OPERATOR, known=REGISTERED))
