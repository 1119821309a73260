"""Operators, pipelines, nodes and backups in any order: what must hold whatever happens.

The machine moves two tenants' pointers on three nodes. It crashes agents and engines, cuts links, restarts
the hub, restores it from older copies, lets operators race with what they saw earlier, and collects
releases. Every decision in it is one of `loradeck.rules`; what is asserted is written from the design.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.fleets.in_process.log import OPERATOR, RELEASER, digest, gate_result
from tests.fleets.in_process.log import ref as ref_of
from tests.fleets.in_process.rules import (
    BASES,
    KEYS,
    LABELS,
    SLOTS,
    Pending,
    SimulatedHub,
    SimulatedNode,
    new_fleet,
    same,
)

from loradeck.rules.errors import Refused
from loradeck.rules.moves import chain, forward, records, rewind, rollbacks
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.serving import retention
from loradeck.rules.serving.flip import Verdict
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import MOVES, Draft, Event, EventKind, PointerState
from loradeck.schemas.moves import (
    FallbackRequest,
    HoldRequest,
    LiftRequest,
    PromoteRequest,
    RewindRequest,
    RollbackRequest,
    UndoRequest,
    UnpinRequest,
)
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.state import PreviewAction
from loradeck.schemas.table import TableEntry

KEY = "some-key-of-a-caller"
keys = st.sampled_from(KEYS)
labels = st.sampled_from(LABELS)
nodes = st.integers(0, 2)
GATED = RouteConfig(gate=GateConfig(suite=digest("suite"), min_exact=0.9))


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.hub, self.nodes = new_fleet()
        self.backups: list[SimulatedHub] = []
        self.late: list[list[TableEntry]] = []
        self.requests: list[tuple[PointerKey, RollbackRequest]] = []
        self.fences: dict[tuple[str, PointerKey], tuple[int, int]] = {}
        self.unpinned: set[tuple[str, PointerKey]] = set()
        self.jobs = 0

    @initialize(days=st.lists(st.tuples(keys, labels), min_size=3, max_size=8))
    def some_history(self, days: list[tuple[PointerKey, str]]) -> None:
        for key, label in days:
            self.release_day(key, label, "soaked")
        self.backups.append(self.hub.backup())

    # ---- how a move is made --------------------------------------------------------------------------

    def attempt(self, decide: Callable[[], Sequence[Draft]]) -> list[Event] | str:
        """Commits what a rule gives, and the nodes that are linked hear of it later. A refusal changes nothing."""
        ledger = self.hub.log.ledger
        before = (ledger.rev, ledger.hash, dict(ledger.pointers))
        try:
            drafts = decide()
        except Refused as refused:
            refusal = refused
        else:
            refusal = None
        if refusal is not None:
            assert (ledger.rev, ledger.hash, dict(ledger.pointers)) == before
            assert refusal.status in (403, 404, 409, 422)
            return refusal.code
        events = self.hub.log.commit(*drafts) if drafts else []
        for event in events:
            if event.kind in MOVES:
                was = before[2].get((event.tenant, event.route or ""))
                assert event.pointer is not None
                assert event.pointer.generation == (was.generation if was else 0) + 1
                assert event.pointer.last_move == event.id
        return events

    def moved(self, outcome: list[Event] | str) -> tuple[PointerState, Event]:
        assert isinstance(outcome, list), outcome
        (event,) = outcome
        assert event.pointer is not None
        return event.pointer, event

    def steering(self) -> bool:
        return not self.hub.behind

    # ---- forward -------------------------------------------------------------------------------------

    @precondition(steering)
    @rule(key=keys, label=labels, gate=st.sampled_from(["none", "passed", "failed"]), override=st.booleans())
    def prepare(self, key: PointerKey, label: str, gate: str, override: bool) -> None:
        """A promote's first half. What binds forward moves binds here, and is what the design lists."""
        release, pointer = ref_of(label, key[0]).id, self.hub.pointer(key)
        request = PromoteRequest(
            release=release,
            expected_generation=pointer.generation,
            idempotency_key=KEY,
            override=override,
            reason="at three in the morning" if override else "",
        )
        config = RouteConfig() if gate == "none" else GATED
        result = gate_result("v1", None, passed=gate == "passed").model_copy(
            update={"release": release, "against": pointer.release}
        )
        facts, stored = self.hub.facts[key], release in self.hub.stored
        outcome = self.attempt(lambda: self.hub.check_promote(key, request, config, [result]) and [])
        blocked = (
            not stored
            or pointer.release == release
            or any(q.release == release for q in pointer.quarantined)
            or release in facts.revoked
            or pointer.held
            or (gate == "failed" and not override)
        )
        assert isinstance(outcome, str) == blocked, outcome
        if not blocked:
            self.jobs += 1
            self.hub.pending[key] = Pending(f"job-{self.jobs}", request)

    @precondition(steering)
    @rule(key=keys)
    def finish_prepare(self, key: PointerKey) -> None:
        """The second half: everything is checked again, and a pointer that moved in between stays where it is."""
        pending = self.hub.pending.pop(key, None)
        if pending is None:
            return
        pointer, facts, release = self.hub.pointer(key), self.hub.facts[key], pending.request.release

        def commit() -> list[Draft]:
            self.hub.check_promote(key, pending.request, RouteConfig(), [])
            return [forward.promote(pointer, pending.request, RELEASER, attested=facts.attested)]

        outcome = self.attempt(commit)
        hypothesis.event(f"promote: {outcome if isinstance(outcome, str) else 'done'}")
        if isinstance(outcome, str):
            assert outcome in ("moved", "held", "quarantined", "revoked", "already_live", "unknown_release")
            return
        now, _ = self.moved(outcome)
        assert now.release == release
        assert now.beneath[:1] == ((pointer.release,) if pointer.release is not None else ())
        assert set(now.beneath) <= {*pointer.beneath, pointer.release}
        assert [r for r in now.beneath if r != pointer.release] == [
            r for r in pointer.beneath if r not in (release, pointer.release)
        ]
        assert (now.held, now.quarantined) == (pointer.held, pointer.quarantined)

    @precondition(steering)
    @rule(key=keys, label=labels, serves=st.sampled_from(["unproven", "attested", "soaked"]))
    def release_day(self, key: PointerKey, label: str, serves: str) -> None:
        """The usual way: a release is prepared, committed, flipped to everywhere it is heard of, and serves."""
        self.prepare(key, label, "passed", False)
        self.finish_prepare(key)
        for i in range(len(self.nodes)):
            self.steer(i)
            self.reconcile(i)
        if serves != "unproven":
            self.hub.attest(key, self.nodes)
        if serves == "soaked":
            self.hub.soak(key)

    # ---- back ----------------------------------------------------------------------------------------

    @rule(key=keys)
    def look(self, key: PointerKey) -> None:
        """Somebody looks at the screen, and may press the key much later."""
        target = self.hub.target(key)
        self.requests.append(
            (
                key,
                RollbackRequest(
                    expected_generation=self.hub.pointer(key).generation,
                    to=target.release,
                    cancels=target.prepare,
                    confirmed=True,
                    idempotency_key=KEY,
                ),
            )
        )

    @precondition(steering)
    @rule(key=keys, confirmed=st.booleans(), twice=st.booleans())
    def roll_back(self, key: PointerKey, confirmed: bool, twice: bool) -> None:
        pointer, target = self.hub.pointer(key), self.hub.target(key)
        request = RollbackRequest(
            expected_generation=pointer.generation,
            to=target.release,
            cancels=target.prepare,
            confirmed=confirmed,
            idempotency_key=KEY,
        )
        self._roll_back(key, request)
        if twice and self.hub.pointer(key) != pointer:
            assert self.attempt(lambda: self._rollback_drafts(key, request)) == "moved"

    @precondition(lambda self: self.requests and not self.hub.behind)
    @rule(data=st.data())
    def roll_back_by_what_was_seen_earlier(self, data: st.DataObject) -> None:
        key, request = data.draw(st.sampled_from(self.requests))
        pointer, target = self.hub.pointer(key), self.hub.target(key)
        if request.expected_generation != pointer.generation:
            assert self.attempt(lambda: self._rollback_drafts(key, request)) == "moved"
        elif (request.to, request.cancels) != (target.release, target.prepare):
            outcome = self.attempt(lambda: self._rollback_drafts(key, request))
            assert outcome in ("target_changed", "no_prior")
        else:
            self._roll_back(key, request)

    def _rollback_drafts(self, key: PointerKey, request: RollbackRequest) -> list[Draft]:
        answer = rollbacks.rollback(self.hub.pointer(key), request, self.hub.target(key), OPERATOR)
        return [answer] if isinstance(answer, Draft) else []

    def _roll_back(self, key: PointerKey, request: RollbackRequest) -> None:
        pointer, target, facts = self.hub.pointer(key), self.hub.target(key), self.hub.facts[key]
        outcome = self.attempt(lambda: self._rollback_drafts(key, request))
        hypothesis.event(f"R: {target.action.value}, {outcome if isinstance(outcome, str) else 'done'}")
        if target.action is PreviewAction.CANCEL_PREPARE:
            assert outcome == []
            del self.hub.pending[key]
        elif target.action is not PreviewAction.ROLLBACK:
            assert outcome == "no_prior"
            assert all(r in facts.revoked for r in pointer.beneath if r != pointer.release)
        elif target.asks is not None and not request.confirmed:
            assert outcome == "needs_confirmation"
        else:
            now, _ = self.moved(outcome)
            assert now.release == target.release
            assert now.release in pointer.beneath
            assert now.release not in facts.revoked
            quarantined = {q.release for q in pointer.quarantined}
            unasked = now.release in facts.soaked and now.release in facts.attested
            assert (target.asks is None) == (unasked and now.release not in {*facts.breached, *quarantined})
            assert now.release in self.hub.stored
            assert now.held
            place = pointer.beneath.index(now.release or "")
            assert now.beneath == pointer.beneath[place + 1 :]
            fresh = [q.release for q in now.quarantined if q not in pointer.quarantined]
            assert fresh == ([] if pointer.release == BASES[key[0]] else [pointer.release])
            assert all(q.event for q in now.quarantined)
            assert now.release in facts.soaked or not (
                set(pointer.beneath) & facts.soaked & set(facts.attested)
                - set(facts.revoked) - set(facts.breached)
                - {q.release for q in pointer.quarantined} - {pointer.release}
            )  # fmt: skip

    @precondition(steering)
    @rule(key=keys)
    def fall_back(self, key: PointerKey) -> None:
        pointer = self.hub.pointer(key)
        request = FallbackRequest(expected_generation=pointer.generation, idempotency_key=KEY)
        outcome = self.attempt(lambda: [rollbacks.fallback(pointer, request, OPERATOR, BASES[key[0]], allowed=True)])
        if pointer.release is None or pointer.release == BASES[key[0]]:
            assert outcome == ("nothing_live" if pointer.release is None else "already_live")
            return
        now, _ = self.moved(outcome)
        assert (now.release, now.beneath) == (BASES[key[0]], pointer.beneath)
        assert now.quarantined[-1].release == pointer.release

    @precondition(steering)
    @rule(key=keys, redo=st.booleans())
    def undo(self, key: PointerKey, redo: bool) -> None:
        event = self.hub.last_move(key)
        if event is None:
            return
        hypothesis.event(f"undo of a {event.kind.value}")
        was = self.hub.log.before([event]).get(key) or PointerState(tenant=key[0], route=key[1])
        undone = self.hub.pointer(key)
        outcome = self._undo(event)
        if event.kind is EventKind.RECOVER:
            assert outcome == "not_undoable"
            return
        now, undo = self.moved(outcome)
        assert same(now, was)
        assert undo.undoes == (event.id,)
        if undone == event.pointer:  # nobody held or lifted in between
            assert (now.held, now.quarantined) == (was.held, was.quarantined)
        if redo:
            again, _ = self.moved(self._undo(undo))
            assert same(again, undone)
            assert (again.held, set(again.quarantined)) == (undone.held, set(undone.quarantined))

    def _undo(self, event: Event) -> list[Event] | str:
        return self.attempt(
            lambda: self.hub.undo_drafts([event], UndoRequest(event=event.id, confirmed=True, idempotency_key=KEY))
        )

    @precondition(steering)
    @rule(data=st.data())
    def undo_what_is_no_longer_the_last_move(self, data: st.DataObject) -> None:
        old = [e for e in self.hub.log.events if e.pointer and self.hub.pointer(e.pointer.key).last_move != e.id]
        if old:
            assert self._undo(data.draw(st.sampled_from(old))) in ("moved", "not_undoable")

    @precondition(steering)
    @rule(data=st.data(), interfere=st.none() | keys, then_undo=st.booleans())
    def rewind(self, data: st.DataObject, interfere: PointerKey | None, then_undo: bool) -> None:
        log = self.hub.log
        to_rev = data.draw(st.integers(1, log.ledger.rev))
        dry = RewindRequest(to_rev=to_rev, idempotency_key=KEY)
        seen = {f"{s.tenant}/{s.route}": s.generation for s in self.hub.rewind_plan(dry, to_rev).steps}
        if interfere is not None:
            self.fall_back(interfere)
        request = dry.model_copy(update={"dry_run": False, "generations": seen})
        before, then = dict(log.ledger.pointers), log.pointers_at(to_rev)

        def execute() -> list[Draft]:
            plan = self.hub.rewind_plan(request, to_rev)
            return rewind.drafts(plan, log.ledger.pointers, then, request, OPERATOR, known=self.hub.stored)

        outcome = self.attempt(execute)
        if isinstance(outcome, str):
            assert (outcome, seen) == ("plan_required", {})
            return
        assert len({e.txn for e in outcome}) <= 1
        hypothesis.event(f"rewind of {len(outcome)} pointers of {len(seen)} in the plan")
        for event in outcome:
            assert event.pointer is not None
            key, facts = event.pointer.key, self.hub.facts[event.pointer.key]
            assert event.pointer.release == then[key].release
            assert event.pointer.beneath == tuple(r for r in then[key].beneath if r in self.hub.stored)
            assert event.pointer.release not in facts.revoked
            assert event.pointer.release not in facts.breached
            assert event.pointer.release not in {q.release for q in before[key].quarantined}
            assert event.pointer.release in self.hub.stored
            assert (event.pointer.held, event.pointer.quarantined) == (before[key].held, before[key].quarantined)
            assert before[key].generation == seen[f"{event.tenant}/{event.route}"]
        for key in KEYS:
            if key not in {e.pointer.key for e in outcome if e.pointer}:
                assert log.pointer(key) == before[key]
        if then_undo and outcome:
            txn = outcome[0].txn
            undone = self.attempt(
                lambda: self.hub.undo_drafts(log.txn(txn), UndoRequest(txn=txn, confirmed=True, idempotency_key=KEY))
            )
            assert len(undone) == len(outcome)
            assert all(same(log.pointer(key), before[key]) for key in KEYS)

    # ---- what moves nothing --------------------------------------------------------------------------

    @precondition(steering)
    @rule(key=keys, held=st.booleans())
    def hold(self, key: PointerKey, held: bool) -> None:
        pointer = self.hub.pointer(key)
        request = HoldRequest(held=held, expected_generation=pointer.generation, idempotency_key=KEY)
        outcome = self.attempt(lambda: [records.hold(pointer, request, OPERATOR)])
        assert (outcome == "no_change") == (pointer.held == held)
        assert self.hub.pointer(key) == pointer.model_copy(update={"held": held})

    @precondition(steering)
    @rule(key=keys, label=labels)
    def lift(self, key: PointerKey, label: str) -> None:
        pointer, release = self.hub.pointer(key), ref_of(label, key[0]).id
        request = LiftRequest(release=release, idempotency_key=KEY, reason="it was the node")
        outcome = self.attempt(lambda: [records.lift(pointer, request, RELEASER)])
        assert (outcome == "not_quarantined") == (release not in {q.release for q in pointer.quarantined})
        assert release not in {q.release for q in self.hub.pointer(key).quarantined}
        assert same(self.hub.pointer(key), pointer)

    @rule(key=keys, label=st.sampled_from(LABELS[1:]), what=st.sampled_from(["attest", "soak", "breach", "revoke"]))
    def learn(self, key: PointerKey, label: str, what: str) -> None:
        """The hub learns something of the live release, or of any one: that it is revoked."""
        live, facts = self.hub.pointer(key).release, self.hub.facts[key]
        if what == "attest":
            self.hub.attest(key, self.nodes)
        elif what == "soak":
            self.hub.soak(key)
        elif what == "revoke":
            self.hub.learn(key, revoked={**facts.revoked, ref_of(label, key[0]).id: "leaks a name"})
        elif live is not None and live != BASES[key[0]]:
            self.hub.learn(key, breached={**facts.breached, live: "bad 31.0% of 2310"})

    # ---- collection ----------------------------------------------------------------------------------

    @rule(key=keys, label=labels, after_a_power_cut=st.booleans())
    def collect(self, key: PointerKey, label: str, after_a_power_cut: bool) -> None:
        """And somebody registers one of those again that may be gone."""
        if after_a_power_cut:  # no engine lists anything, so that only the roots protect
            for node in self.nodes:
                node.loaded.clear()
        roots = self.hub.roots()
        gone = retention.collectable(self.hub.stored, roots, (r for n in self.nodes for r in n.loaded))
        assert gone & roots == set()
        hypothesis.event(f"collected {'some' if gone else 'nothing'}")
        self.hub.stored -= gone
        self.hub.stored.add(ref_of(label, key[0]).id)

    # ---- nodes ---------------------------------------------------------------------------------------

    @rule(i=nodes, what=st.sampled_from(["cut", "heal", "crash", "steer", "reconcile"]))
    def node_event(self, i: int, what: str) -> None:
        """The link is cut or heals, the engine loses what it had loaded, or the node does its daily work."""
        node = self.nodes[i]
        if what == "reconcile":
            self.reconcile(i)
        elif what == "crash":
            node.loaded.clear()
        else:
            node.linked = what != "cut" and (node.linked or what == "heal")
            self.steer(i)

    def steer(self, i: int) -> None:
        """One node hears from the hub: hello, then the whole table."""
        node = self.nodes[i]
        if node.linked and self.hub.greet(node):
            self._tell(node)

    def _tell(self, node: SimulatedNode) -> None:
        for name, key in list(self.unpinned):
            if name == node.name:
                node.pins.pop(key, None)
                self.unpinned.discard((name, key))
        entries = self.hub.entries()
        for entry in entries:
            verdict = node.take(entry)
            assert verdict is not Verdict.STALE, "a hub that is not behind never tells anything stale"
            if verdict is Verdict.FLIP:
                assert entry.current is not None
                assert entry.current.id in node.ready
        node.seen = (self.hub.log.epoch, self.hub.log.ledger.rev, self.hub.log.ledger.hash)
        self.late.append(entries)

    def reconcile(self, i: int) -> None:
        node = self.nodes[i]
        todo = node.reconcile(self.hub.stored)
        assert len(node.loaded) <= SLOTS
        if todo.unload:  # only ever to make room
            assert len(node.loaded) == SLOTS
        # What is left may hold the slot until another one has flipped: then the next round gets it.
        node.reconcile(self.hub.stored)
        currents = {e.current.id for e in node.desired.values() if e.current is not None}
        assert node.pins or currents <= node.ready

    @rule(i=nodes, data=st.data())
    def hear_something_late(self, i: int, data: st.DataObject) -> None:
        """A directive that was under way for long. What is older than what the node holds changes nothing."""
        node = self.nodes[i]
        if not self.late:
            return
        for entry in data.draw(st.sampled_from(self.late)):
            held = node.desired.get(entry.key)
            if held is not None and entry.fence < held.fence:
                standing = node.in_force.get(entry.key)
                assert node.take(entry) is Verdict.STALE
                assert (node.desired.get(entry.key), node.in_force.get(entry.key)) == (held, standing)

    @rule(i=nodes, key=keys, label=labels)
    def pin(self, i: int, key: PointerKey, label: str) -> None:
        if key in self.nodes[i].desired:
            self.nodes[i].pin(key, ref_of(label, key[0]).id)

    @precondition(steering)
    @rule(i=nodes, key=keys)
    def unpin(self, i: int, key: PointerKey) -> None:
        node, pointer = self.nodes[i], self.hub.pointer(key)
        request = UnpinRequest(node=node.name, idempotency_key=KEY)
        assert isinstance(self.attempt(lambda: [records.unpin(pointer, request, OPERATOR)]), list)
        assert self.hub.pointer(key) == pointer
        self.unpinned.add((node.name, key))

    # ---- the hub -------------------------------------------------------------------------------------

    @rule(back_up=st.booleans())
    def restart_hub(self, back_up: bool) -> None:
        if back_up:
            self.backups.append(self.hub.backup())
        behind = self.hub.behind
        self.hub = self.hub.restarted()
        self.hub.behind = behind

    @precondition(lambda self: self.backups)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """Somebody restores an older copy. Requests seen under the other log may come in still."""
        self.hub = data.draw(st.sampled_from(self.backups)).restarted()

    @precondition(lambda self: self.hub.behind)
    @rule()
    def recover(self) -> None:
        before = dict(self.hub.log.ledger.pointers)
        newest = {
            key: max(
                (n.desired[key] for n in self.nodes if n.linked and key in n.desired),
                key=lambda e: e.fence,
                default=None,
            )
            for key in KEYS
        }
        recovered = self.hub.recover(self.nodes)
        hypothesis.event(f"recover of {len(recovered)} pointers")
        for key, entry in newest.items():
            now, was = self.hub.pointer(key), before[key]
            if entry is not None and entry.fence > (was.moved_epoch, was.generation):
                assert now.release == (entry.current.id if entry.current else None)
                assert now == was or (now.generation > entry.generation and now.held)
            else:
                assert now.generation >= was.generation
            if entry is not None:
                assert (self.hub.log.epoch, now.generation) > entry.fence
        for node in self.nodes:
            if node.linked:
                self._tell(node)

    # ---- what holds, always --------------------------------------------------------------------------

    @invariant()
    def fences_never_go_back(self) -> None:
        for node in self.nodes:
            for key, entry in node.desired.items():
                assert entry.fence >= self.fences.get((node.name, key), (0, 0))
                self.fences[node.name, key] = entry.fence
            for key, entry in node.in_force.items():
                assert entry.fence <= node.desired[key].fence
                assert entry.fence >= node.acked[key]

    @invariant()
    def nothing_left_is_admitted_after_its_acknowledgement(self) -> None:
        for node in self.nodes:
            for key in KEYS:
                admission, pin = node.admit(key), node.pins.get(key)
                if pin is not None and pin.release.id in node.ready:
                    assert admission.release == pin.release
                elif admission.release is not None:
                    allowed = [e for e in (node.desired.get(key), node.in_force.get(key)) if e is not None]
                    fences = [e.fence for e in allowed if e.current == admission.release]
                    assert fences
                    assert max(fences) >= node.acked.get(key, (0, 0))

    @invariant()
    def pointers_are_sound(self) -> None:
        for key in KEYS:
            pointer = self.hub.pointer(key)
            quarantined = [q.release for q in pointer.quarantined]
            assert BASES[key[0]] not in quarantined
            assert len(set(pointer.beneath)) == len(pointer.beneath)
            assert len(pointer.beneath) <= forward.BENEATH_LIMIT

    @invariant()
    def every_way_back_is_still_there(self) -> None:
        for key in KEYS:
            target, pointer, event = self.hub.target(key), self.hub.pointer(key), self.hub.last_move(key)
            ways = {target.release, pointer.release, *pointer.beneath}
            if event is not None:
                was = self.hub.log.before([event]).get(key)
                ways |= {was.release, *was.beneath} if was else set()
            assert ways - {None} <= self.hub.stored
            if target.action is PreviewAction.ROLLBACK:
                assert target.release not in self.hub.facts[key].revoked

    def teardown(self) -> None:
        """The log is whole and adds up to the pointers; and left alone, the fleet comes to what it says."""
        log = self.hub.log
        assert chain.verify(log.events) is None
        again = FoldedLog()
        again.extend(log.events)
        assert (again.pointers, again.tenants) == (log.ledger.pointers, log.ledger.tenants)
        for key in KEYS:
            generations = [e.generation or 0 for e in log.events if e.kind in MOVES and (e.tenant, e.route) == key]
            assert all(a < b for a, b in pairwise(generations))
        for node in self.nodes:
            node.linked = True
            node.pins.clear()
            self.hub.greet(node)
        if self.hub.behind:
            self.recover()
        for i, node in enumerate(self.nodes):
            self.steer(i)
            node.reconcile(self.hub.stored)
            node.reconcile(self.hub.stored)
            for key in KEYS:
                pointer, entry = self.hub.pointer(key), node.in_force.get(key)
                if pointer.generation:
                    assert entry is not None
                    assert entry.fence == (self.hub.log.epoch, pointer.generation)
                    assert node.admit(key).code == (None if pointer.release else "removed")


Fleet.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestFleet = Fleet.TestCase
