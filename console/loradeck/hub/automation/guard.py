"""Guard at the hub: looks at releases that have just gone out, and moves or holds their pointers by the rules."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import nlargest
from typing import Any

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.background import Background
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.incidents import Incidents
from loradeck.hub.log.log import Log, Published
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.arm_outcomes import ArmsSaid
from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.hub.progress.target_lookup import RollbackTargets
from loradeck.hub.progress.votes import Votes
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.clocks import DAY_MS, HOUR_MS
from loradeck.rules.errors import Refused
from loradeck.rules.moves import records, rollbacks
from loradeck.rules.moves.draft import Actor, by_automation
from loradeck.rules.moves.incidents import opening, suspect_of
from loradeck.rules.quality import arm_comparison
from loradeck.rules.quality.guard import (
    FORWARD,
    LATEST_S,
    NOTHING,
    Around,
    Decision,
    Evidence,
    NodeEvidence,
    Served,
    at_fault,
    decide,
    why_no_cordon,
)
from loradeck.rules.quality.health import shared_cause, standing_out
from loradeck.rules.quality.move_budgets import GuardMove, cause_of
from loradeck.schemas.candidate import Candidate, Figure
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.log import FLEET, Draft, Event, EventKind, PointerState
from loradeck.schemas.moves import HoldRequest, RollbackRequest
from loradeck.schemas.route import Guard
from loradeck.schemas.state import PreviewAction
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.automation.guard")

LOOK_S = 10.0
"""Seconds for which a look at a suspected node is good."""

MOST = 200
"""Pointers that are looked at, those with the most requests on the node: a rollback must not wait for thousands."""


@dataclass(eq=False, kw_only=True)
class BadNodes:
    """Cordons nodes that guard suspects and that answer badly for everybody on them; that is an event.

    `ordered`: tells a node that it is cordoned.
    """

    log: Log
    fleet: Fleet
    tables: NodeTables
    votes: Votes
    allowed: MovesAllowed
    ordered: Callable[[Node], None]
    background: Background
    clock: Clock
    _looked: dict[str, float] = field(default_factory=dict, init=False)
    _said: dict[str, str] = field(default_factory=dict, init=False)
    """Node that is at fault -> why it is not cordoned, as it was said last."""

    def suspect(self, name: str, replica: str | None, figure: str) -> None:
        """Looks at a node by whose answers a release is bad.

        Args:
            name: of the node; '': that of the replica.
            replica: the one that stands out among the release's; None: none does.
            figure: by which share, 'bad' or 'errors'.
        """
        name, now = name or (replica and self.fleet.node_of(replica)) or "", self.clock.monotonic()
        node = self.fleet.nodes.get(name)
        if node is None or node.cordoned or (name in self._looked and now < self._looked[name] + LOOK_S):
            return
        self._looked[name] = now
        if self._found(node, figure) is not None:
            self.background.spawn(self._cordon(node, figure))

    def _found(self, node: Node, figure: str) -> NodeEvidence | None:
        """Returns what speaks against a node; None: too little does, or it may not be cordoned now."""
        found = at_fault(figure, self._served(node, figure))
        if found is None:
            self._said.pop(node.name, None)
            return None
        now_ms = self.clock.now_ms()
        why = why_no_cordon(
            settling=self.allowed.refusing is not None,
            cordoned=self.fleet.cordoned_by_guard(),
            lately=node.blamed_ms is not None and now_ms - node.blamed_ms < DAY_MS,
            last_of=self._last_of(node),
        )
        if why and self._said.get(node.name) != why:
            log.warning("guard cordons no node=%s, though %s: %s", node.name, found, why)
        self._said[node.name] = why
        return None if why else found

    def _keys(self, node: Node) -> set[PointerKey]:
        return self.tables.placed(self.tables.table(node.labels, node.name, own=False))

    def _served(self, node: Node, figure: str) -> Iterator[Served]:
        def requests(pointer: PointerState) -> int:
            return self.votes.last_minute_on(node.name, pointer.key, (pointer.generation, pointer.release or ""))

        for pointer in nlargest(MOST, map(self.log.state.pointer, sorted(self._keys(node))), key=requests):
            units = self.votes.last_minute(pointer.key, (pointer.generation, pointer.release or ""), figure)
            if here := units.pop(node.name, None):
                yield Served(pointer.key[0], here, units, self.votes.guard_limit(pointer.key, figure))

    def _last_of(self, node: Node) -> str:
        """A pointer on a node that no other node in use answers for; '': there is none."""
        looked = set[tuple[Any, ...]]()  # thousands of pointers have a few places
        for key in sorted(self._keys(node)):
            if (placing := self.tables.placing(key)) is None:
                continue
            (labels, nodes), base = placing.where
            place = (frozenset(labels.items()), nodes, base)
            others = (other for other, _ in self.fleet.placed(placing.site, base) if other is not node)
            if place not in looked and all(other.lost or other.cordoned or other.drained for other in others):
                return "/".join(key)
            looked.add(place)
        return ""

    async def _cordon(self, node: Node, figure: str) -> None:
        """Cordons a node, by what is true once no move is under way."""
        try:
            async with self.log.moving:
                found = self._found(node, figure)
                if found is None or node.cordoned or self.fleet.nodes.get(node.name) is not node:
                    return
                self.allowed.check()
                payload = {"node": node.name, "evidence": found._asdict(), "automation": True}
                draft = Draft(
                    kind=EventKind.NODE_CORDON,
                    tenant=FLEET,
                    actor="guard",
                    role=Role.OPERATOR,
                    reason=f"guard: {found}",
                    payload=payload,
                )
                await self.log.commit([draft], f"guard cordon {node.name} {self.log.state.rev}")
                self.fleet.cordon_bad(node, str(found), self.clock.now_ms())
        except (Refused, StoreError) as error:
            log.error("guard could not cordon node=%s code=%s %s", node.name, error.code, error)
            return
        log.error("node cordoned node=%s by guard: %s", node.name, found)
        self.ordered(node)


ACTOR = Actor(name="guard", role=Role.OPERATOR, automation=True)

BUDGET = "budget"
"""The name in the payload of guard's moves of what they are charged to besides their tenant: a node, and a cause."""


@dataclass(eq=False, kw_only=True)
class GuardedPointers:
    """The pointers whose routes have a guard and that have just moved forward.

    `said`: what guard found on a pointer last, in words. It stands until the pointer moves, or until no second
    of the last minute has spoken against the release any more (`Detector.evidence`) and the pointer is not held.
    """

    log: Log
    votes: Votes
    counts: RequestCounts
    arms: ArmsSaid
    replicas: PlacedReplicas
    tables: NodeTables
    targets: RollbackTargets
    allowed: MovesAllowed
    incidents: Incidents
    bad_nodes: BadNodes
    changes: Changes
    background: Background
    clock: Clock
    said: dict[PointerKey, str] = field(default_factory=dict, init=False)
    _watched: set[PointerKey] = field(default_factory=set, init=False)
    _acting: set[PointerKey] = field(default_factory=set, init=False)
    _done: dict[PointerKey, set[str]] = field(default_factory=dict, init=False)
    """Pointer -> the names of guard's acts in its generation: each is made once."""
    _made: deque[tuple[int, GuardMove]] = field(default_factory=deque, init=False)
    """Guard's moves of the last hour, with the hub's milliseconds of each. Their budgets bound how many there are:
    three of a tenant, and fewer than twenty tenants of a cause."""

    def load(self) -> None:
        """Begins with the pointers as the log has them."""
        for key, pointer in self.log.state.pointers.items():
            self._watch(key, pointer)
        self._count(self.log.recent)

    def committed(self, published: Published) -> None:
        """Begins anew for pointers that have moved; a follower of the log."""
        self._count(published.events)
        for move in published.moves:
            if move.event.pointer is not None:
                self.said.pop(move.key, None)
                self._done.pop(move.key, None)
                self._watch(move.key, move.event.pointer)

    def _count(self, events: Iterable[Event]) -> None:
        """Counts guard's own moves, by the log alone: also one whose commit had no known outcome at first."""
        for event in events:
            if by_automation(event) and event.actor == ACTOR.name and event.kind is EventKind.ROLLBACK:
                budget = event.payload.get(BUDGET)
                of = budget if isinstance(budget, dict) else {}  # a hub of an earlier version has made it
                move = GuardMove(event.tenant, str(of.get("node", "")), str(of.get("cause", "")))
                self._made.append((event.at_ms, move))
        self._forget()

    def _forget(self) -> None:
        """Forgets the moves that were made more than an hour ago."""
        oldest = self.clock.now_ms() - HOUR_MS
        while self._made and self._made[0][0] < oldest:
            self._made.popleft()

    def _due(self, key: PointerKey, evidence: Evidence) -> GuardMove:
        """The move that guard would make on a pointer, as its budgets count it."""
        entry = self.tables.entries[key]
        out = entry.candidate.release if entry.candidate is not None else entry.current
        base = out.release.served_base if out is not None else ""
        node = evidence.control.alone if evidence.control is not None else ""
        return GuardMove(key[0], node, cause_of(evidence.figure, base))

    def _watch(self, key: PointerKey, pointer: PointerState) -> None:
        last = self.log.last_move(pointer)
        forward = pointer.candidate is not None or (last is not None and last.kind in FORWARD)
        (self._watched.add if forward and pointer.release is not None else self._watched.discard)(key)

    def tick(self) -> None:
        """Looks at the pointers that are watched; called once a second."""
        for key in list(self._watched):
            pointer = self.log.state.pointers[key]
            if self.clock.now_ms() - (pointer.moved_ms or 0) > 1000 * LATEST_S and pointer.candidate is None:
                self._watched.discard(key)
            elif self.log.state.config(key).guard is not Guard.OFF and key not in self._acting:
                self._look(key, pointer)

    def _look(self, key: PointerKey, pointer: PointerState) -> None:
        found = self._judged(key, pointer)
        if found is None:
            if key in self.said and not pointer.held:
                log.warning("guard tenant=%s route=%s nothing speaks against the release any more", *key)
                del self.said[key]
                self.changes.soon((key,))
            return
        decision, evidence = found
        if self.log.state.config(key).guard is not Guard.ALERT:
            self._suspect(key, pointer, evidence)
        said = f"{evidence}: {decision.why or decision.act.value}"
        if self.said.get(key) != said:
            log.warning("guard tenant=%s route=%s does=%s %s", *key, decision.act.value, said)
            self.changes.soon((key,))
        self.said[key] = said
        acts = decision.act is Guard.ROLLBACK or (decision.act is Guard.HOLD and not pointer.held)
        if acts and _name(pointer, decision) not in self._done.get(key, ()):
            self._acting.add(key)
            self.background.spawn(self._act(key))

    def _suspect(self, key: PointerKey, pointer: PointerState, evidence: Evidence) -> None:
        """Has a node looked at by whose answers a release is bad, or stands out among its own replicas."""
        out = pointer.candidate.release if pointer.candidate is not None else pointer.release
        by_replica = self.counts.live(key, pointer.generation, out or "")
        self.bad_nodes.suspect(evidence.alone, standing_out(by_replica, evidence.figure), evidence.figure)

    def _judged(self, key: PointerKey, pointer: PointerState) -> tuple[Decision, Evidence] | None:
        """Decides what guard does about a pointer now, and why; None: nothing speaks against it."""
        live, out = pointer.release, pointer.candidate
        if live is None:
            return None
        stint = (pointer.generation, out.release if out is not None else live)
        control = (pointer.generation, live) if out is not None else None
        placed = self.replicas.placed(key)

        def nodes() -> set[str]:
            return {node.name for node, _ in placed}

        shadow = out is not None and out.shadow
        if out is not None and shadow:
            evidence = self.votes.of_shadow(key, (pointer.generation, live), out.release, nodes)
        else:
            targets = self.targets
            evidence = self.votes.since_move(key, stint, control, nodes, beneath=lambda: targets.of(pointer).release)
            if evidence is not None and out is not None:
                evidence = self._without_one_caller(evidence, pointer, out)
        if evidence is None:
            return None
        progress, now, target = self.replicas.progress(key), self.clock.now_ms(), self.targets.of(pointer)
        self._forget()
        decided = evidence.control is not None and evidence.control.worse
        replicas = () if decided else tuple((node.name, replica.replica) for node, replica in placed)
        asks = target.asks or ("" if target.action is PreviewAction.ROLLBACK else "there is no way back")
        if shadow and target.release != live:
            asks = "it leaves the live release too"  # which answers the callers, and was not judged
        around = Around(
            since_move_s=(now - (pointer.moved_ms or now)) / 1000,
            settling=self.allowed.refusing is not None,
            heard=progress.reachable / progress.placed if progress.placed else 0.0,
            neighbours=self.counts.neighbours(key[0], replicas, evidence.figure, self.clock.monotonic()),
            made=[move for _, move in self._made],
            due=self._due(key, evidence),
            asks=asks,
            shared=shared_cause(self.counts.live(key, *stint), evidence.figure),
        )
        decision = decide(self.log.state.config(key).guard, evidence, around)
        return None if decision is NOTHING else (decision, evidence)

    def _without_one_caller(self, evidence: Evidence, pointer: PointerState, out: Candidate) -> Evidence:
        """Has a candidate be worse only if it is so without any one caller, who asks one of the arms alone."""
        control = evidence.control
        if control is None or not control.worse or not self.arms.is_by_key(pointer, out):
            return evidence
        arms, limit = self.arms.both(pointer, out), self.votes.guard_limit(pointer.key, evidence.figure)
        if arm_comparison.is_worse(Figure(evidence.figure), *arms, limit):
            return evidence
        return replace(evidence, control=control._replace(worse=False, by_caller=True))

    async def _act(self, key: PointerKey) -> None:
        """Moves or holds a pointer, by what is true once no other move is under way."""
        try:
            async with self.log.moving:
                pointer = self.log.state.pointers[key]
                found = self._judged(key, pointer)
                if found is None:
                    return
                name = _name(pointer, found[0])
                drafts = self._drafts(pointer, *found, name)
                if drafts:
                    self.allowed.check_pointer(key)
                    self.allowed.check_all(drafts)
                    await self.log.commit(drafts, name)
                    if self.log.state.pointers[key].generation == pointer.generation:
                        self._done.setdefault(key, set()).add(name)
        except (Refused, StoreError) as error:
            log.error("guard could not act tenant=%s route=%s code=%s %s", *key, error.code, error)
        finally:
            self._acting.discard(key)

    def _drafts(self, pointer: PointerState, decision: Decision, evidence: Evidence, name: str) -> Sequence[Draft]:
        target, asked = self.targets.of(pointer), {"expected_generation": pointer.generation, "idempotency_key": name}
        reason = f"guard: {evidence}"
        if decision.act is Guard.ROLLBACK:
            request = RollbackRequest.model_validate({**asked, "to": target.release, "reason": reason})
            drafted = rollbacks.rollback(pointer, request, target, ACTOR)
            if not isinstance(drafted, Draft):
                return ()
        elif decision.act is Guard.HOLD and not pointer.held:
            reason += f" ({decision.why})"
            drafted = records.hold(
                pointer, HoldRequest.model_validate({**asked, "held": True, "reason": reason}), ACTOR
            )
        else:
            return ()
        known, payload = self.incidents.open_on(pointer.key), {**drafted.payload, "evidence": evidence.payload()}
        if decision.act is Guard.ROLLBACK:
            due = self._due(pointer.key, evidence)
            payload[BUDGET] = {"node": due.node, "cause": due.cause}
        if known is None:
            about = pointer.candidate.release if pointer.candidate is not None else pointer.release
            payload |= opening(suspect_of(about or "", self.log.last_move(pointer)))
        incident = known.id if known is not None else self.incidents.new_id()
        return [drafted.model_copy(update={"incident": incident, "payload": payload})]


def _name(pointer: PointerState, decision: Decision) -> str:
    """The key under which an act is committed: each once in a generation, so that a hold which a person has cleared is
    not repeated, nor in a move's way.
    """
    return f"guard {decision.act.value} {'/'.join(pointer.key)} {pointer.generation}"
