"""A hub and its nodes in memory, with every decision taken by the rules: what the state machine drives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.fleets.in_process.log import OPERATOR, RELEASER, SimulatedLog, ref

from loradeck.rules.moves import forward, recover, rewind, rollbacks, witness
from loradeck.rules.moves.rollback_target import PointerFacts, Target, rollback_target
from loradeck.rules.serving import flip, proof, residency, retention
from loradeck.rules.serving.flip import AdmissionDecision, Verdict
from loradeck.schemas.attestation import GateResult
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import GENESIS, Draft, Event, EventKind, PointerState
from loradeck.schemas.moves import PromoteRequest, RewindPlan, RewindRequest, UndoRequest
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry
from loradeck.schemas.tenant import TenantState

KEYS: tuple[PointerKey, ...] = (("acme", "production"), ("bolt", "production"))
LABELS = ("base", "v1", "v2", "v3", "v4", "v5", "v6")
REFS: dict[str, ReleaseRef] = {r.id: r for tenant, _ in KEYS for r in (ref(label, tenant) for label in LABELS)}
BASES = {tenant: ref("base", tenant).id for tenant, _ in KEYS}
SLOTS = 3


@dataclass(frozen=True)
class Pending:
    job: str
    request: PromoteRequest


@dataclass
class SimulatedHub:
    """One database: the log, what is known of releases, and which releases are kept."""

    log: SimulatedLog
    facts: dict[PointerKey, PointerFacts] = field(default_factory=lambda: {key: PointerFacts() for key in KEYS})
    stored: set[str] = field(default_factory=lambda: set(REFS))
    pending: dict[PointerKey, Pending] = field(default_factory=dict)
    behind: bool = False

    @classmethod
    def new(cls, ids: Iterator[int]) -> SimulatedHub:
        return cls(log=SimulatedLog(ids))

    def backup(self) -> SimulatedHub:
        return SimulatedHub(self.log.copy(), dict(self.facts), set(self.stored))

    def restarted(self) -> SimulatedHub:
        """What starts from this database: a new epoch, and nothing that was only in memory."""
        hub = self.backup()
        hub.log.epoch += 1
        return hub

    # ---- what it knows -------------------------------------------------------------------------------

    def pointer(self, key: PointerKey) -> PointerState:
        return self.log.pointer(key)

    def target(self, key: PointerKey) -> Target:
        pointer, pending = self.pointer(key), self.pending.get(key)
        return rollback_target(
            pointer,
            self.facts[key],
            fallback_allowed=True,
            live_is_base=pointer.release == BASES[key[0]],
            pending_prepare=pending.job if pending else None,
        )

    def last_move(self, key: PointerKey) -> Event | None:
        wanted = self.pointer(key).last_move
        return next((e for e in self.log.events if e.id == wanted), None)

    def undo_drafts(self, events: Sequence[Event], request: UndoRequest) -> list[Draft]:
        return rollbacks.undo(self.log.ledger.pointers, events, self.log.before(events), request, OPERATOR)

    def rewind_plan(self, request: RewindRequest, to_rev: int) -> RewindPlan:
        return rewind.plan(
            self.log.ledger.pointers,
            self.log.pointers_at(to_rev),
            request,
            self.facts,
            to_rev=to_rev,
            at_ms=None,
            known=self.stored,
        )

    def check_promote(
        self, key: PointerKey, request: PromoteRequest, config: RouteConfig, gates: Sequence[GateResult]
    ) -> tuple[str, ...]:
        wanted = REFS[request.release].release if request.release in self.stored else None
        return forward.check_promote(
            self.pointer(key),
            request,
            self.facts[key],
            config,
            actor=RELEASER,
            release=wanted,
            gate_results=gates,
            tenant=TenantState(name=key[0]),
            now_ms=0,
            slots_ok=True,
            base_placed=True,
        )

    def roots(self) -> frozenset[str]:
        last = [e for key in KEYS if (e := self.last_move(key)) is not None]
        return retention.roots(
            self.log.ledger.pointers.values(),
            {key: self.facts[key].attested for key in KEYS},
            before=self.log.before(last).values(),
            also=[*BASES.values(), *(p.request.release for p in self.pending.values())],
        )

    # ---- what it learns ------------------------------------------------------------------------------

    def learn(self, key: PointerKey, **update: object) -> None:
        self.facts[key] = replace(self.facts[key], **update)  # type: ignore[arg-type]

    def attest(self, key: PointerKey, nodes: Sequence[SimulatedNode]) -> bool:
        """Attests the current generation if enough replicas are at it, and only then."""
        pointer = self.pointer(key)
        reachable = [n for n in nodes if n.linked]
        at_it = [n for n in reachable if n.serves(key, (self.log.epoch, pointer.generation))]
        seen = proof.attested(placed=len(nodes), reachable=len(reachable), checked=len(at_it), min_replicas=2)
        if seen is None or pointer.release is None:
            return False
        earlier = tuple(r for r in self.facts[key].attested if r != pointer.release)
        self.learn(key, attested=(pointer.release, *earlier))
        return True

    def soak(self, key: PointerKey) -> None:
        live = self.pointer(key).release
        if live in self.facts[key].attested:
            self.learn(key, soaked=self.facts[key].soaked | {live})

    # ---- what it tells -------------------------------------------------------------------------------

    def entries(self) -> list[TableEntry]:
        return [
            TableEntry(
                tenant=p.tenant,
                route=p.route,
                epoch=self.log.epoch,
                generation=p.generation,
                current=REFS[p.release] if p.release else None,
                beneath=tuple(REFS[r] for r in p.beneath),
                preparing=REFS[self.pending[p.key].request.release] if p.key in self.pending else None,
            )
            for p in self.log.ledger.pointers.values()
            if p.generation
        ]

    def greet(self, node: SimulatedNode) -> bool:
        """A node's hello: False when it has seen more than this log holds."""
        epoch, rev, hash_ = node.seen
        events = self.log.events
        has_hash = rev <= len(events) and (rev == 0 or events[rev - 1].hash == hash_)
        if witness.lacks(epoch=epoch, rev=rev, hub_epoch=self.log.epoch, has_hash=has_hash):
            self.behind = True
        return not self.behind

    def recover(self, nodes: Sequence[SimulatedNode]) -> list[Event]:
        """Takes in the tables of the linked nodes, and begins an epoch above all that they have seen."""
        linked = [n for n in nodes if n.linked]
        entries = [e for n in linked for e in n.desired.values()]
        drafts, above = recover.drafts(
            self.log.ledger.pointers, entries, tenants=TENANTS, actor=RELEASER, reason="restored from a backup"
        )
        self.log.epoch = max([above, self.log.epoch, *(n.seen[0] for n in linked)]) + 1
        self.stored |= {r.id for e in entries for r in (e.current, *e.beneath) if r is not None}
        self.behind = False
        self.pending.clear()
        return self.log.commit(*drafts) if drafts else []


TENANTS: Mapping[str, TenantState] = {
    tenant: TenantState(name=tenant, routes={route: RouteConfig()}) for tenant, route in KEYS
}


@dataclass
class SimulatedNode:
    """A router with its durable table, one engine, and the agent between them and the hub."""

    name: str
    linked: bool = True
    seen: tuple[int, int, str] = (0, 0, GENESIS)
    desired: dict[PointerKey, TableEntry] = field(default_factory=dict)
    in_force: dict[PointerKey, TableEntry] = field(default_factory=dict)
    acked: dict[PointerKey, tuple[int, int]] = field(default_factory=dict)
    pins: dict[PointerKey, Pin] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)

    @property
    def ready(self) -> set[str]:
        return self.loaded | set(BASES.values())

    def take(self, entry: TableEntry) -> Verdict:
        """A directive, or an entry that is held already and looked at again."""
        desired, standing = self.desired.get(entry.key), self.in_force.get(entry.key)
        ready = entry.current is not None and entry.current.id in self.ready
        verdict = flip.decide(standing, entry, ready, self.pins.get(entry.key), waiting=desired)
        if verdict is Verdict.STALE:
            return verdict
        self.desired[entry.key] = entry
        if verdict in (Verdict.FLIP, Verdict.TOMBSTONE):
            self.in_force[entry.key] = entry
            self.acked[entry.key] = entry.fence
        return verdict

    def reconcile(self, stored: set[str]) -> residency.Residency:
        """Loads and unloads by the rules, and flips to what has become ready."""
        busy = {e.current.id for e in self.in_force.values() if e.current is not None}
        claims = residency.claims(list(self.desired.values()), slots=SLOTS, pins=list(self.pins.values()))
        todo = residency.plan(claims, self.loaded, busy=busy)
        self.loaded -= set(todo.unload)
        self.loaded |= {r.id for r in todo.load}
        for entry in list(self.desired.values()):
            self.take(entry)
        return todo

    def admit(self, key: PointerKey) -> AdmissionDecision:
        entry, standing = self.desired.get(key), self.in_force.get(key)
        left = standing if standing is not None and entry is not None and standing.fence < entry.fence else None
        return flip.in_force(entry, self.pins.get(key), self.ready, left=left)

    def serves(self, key: PointerKey, fence: tuple[int, int]) -> bool:
        entry = self.in_force.get(key)
        return entry is not None and entry.fence == fence and key not in self.pins and self.admit(key).code is None

    def pin(self, key: PointerKey, release: str) -> None:
        entry = self.desired[key]
        self.pins[key] = Pin(
            tenant=key[0],
            route=key[1],
            release=REFS[release],
            over=entry.fence,
            actor="op1",
            reason="the hub is gone",
            at_ms=0,
        )


def new_fleet() -> tuple[SimulatedHub, list[SimulatedNode]]:
    """A hub with two tenants' pointers, and three nodes on which both are placed."""
    hub = SimulatedHub.new(itertools.count(1))
    for tenant, route in KEYS:
        pointer = PointerState(tenant=tenant, route=route)
        common = {"tenant": tenant, "actor": RELEASER.name, "role": RELEASER.role}
        hub.log.commit(
            Draft(kind=EventKind.TENANT_CREATE, **common),
            Draft(
                kind=EventKind.ROUTE,
                route=route,
                pointer=pointer,
                payload={"config": RouteConfig().model_dump(mode="json")},
                **common,
            ),
        )
    return hub, [SimulatedNode(name) for name in ("gpu-01", "gpu-02", "gpu-03")]


def same(one: PointerState, other: PointerState) -> bool:
    """Whether two states serve the same and go back to the same."""
    return (one.release, one.beneath) == (other.release, other.beneath)
