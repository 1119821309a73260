"""A pointer, two hubs and a router, small enough that every order of what can happen is tried (breadth first).

The moves are those of `rules.moves`, what a router does with an entry is `rules.serving.flip.decide`, and which
directives an agent obeys is `DesiredTable.judge`. Only what lies between them is written down here: one row of the
database that says which hub may commit, and a network that delivers anything that was ever sent, at any time, as often
as it likes, or never. One router stands for all: none depends on another.

A world is a handful of small numbers: pointers and entries are kept once and named by their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from tests.exhaustive.search import Violation, search
from tests.fleets.in_process.log import OPERATOR, RELEASER, facts, ref, rid

from loradeck.rules.errors import Refused
from loradeck.rules.moves import candidate, chain, forward, rollbacks
from loradeck.rules.moves.rollback_target import PointerFacts, Target, rollback_target
from loradeck.rules.serving.flip import Verdict, decide, in_force
from loradeck.schemas.candidate import Candidate
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Desired
from loradeck.schemas.log import GENESIS, Draft, Event, PointerState
from loradeck.schemas.moves import (
    CandidateAbortRequest,
    CandidateFinishRequest,
    CandidateStartRequest,
    CandidateStepRequest,
    FallbackRequest,
    PromoteRequest,
    RollbackRequest,
    UndoRequest,
)
from loradeck.schemas.state import PreviewAction
from loradeck.schemas.table import CandidateRef, RouteResidency, TableEntry
from loradeck.schemas.tenant import TenantState
from loradeck_agent.router.wire import Cursor
from loradeck_agent.uplink.desired_table import DesiredTable
from loradeck_agent.uplink.desired_table import DirectiveVerdict as Heard

KEY: PointerKey = ("acme", "production")
LABELS = ("v1", "v2", "v3")
HUBS = 2


@dataclass(frozen=True)
class Moved:
    """A pointer after a move: the event that led there, and the place of the pointer before."""

    pointer: PointerState
    event: Event | None
    before: int


@dataclass(frozen=True)
class World:
    """`holds`: the epoch that each hub believes to hold, 0 for none; `folded`: the pointer that each has folded.

    `sent`: (entry, epoch of the sender), by place. `heard`: the router's agent's epoch. `acked`: entries that the
    router has acknowledged.
    """

    pointer: int
    epoch: int
    holds: tuple[int, ...]
    folded: tuple[int, ...]
    sent: frozenset[tuple[int, int]]
    heard: int
    held: int | None
    force: int | None
    acked: frozenset[int]
    moves: int
    takeovers: int


@dataclass
class Rules:
    """The decisions that a checked mistake may replace."""

    decide: Callable[..., Verdict] = decide
    only_the_holder_commits: bool = True
    undo: Callable[..., list[Draft]] = rollbacks.undo


@dataclass
class Check:
    """A search from one pointer over all worlds within the bounds.

    Args:
        moves: most commits.
        takeovers: how often another hub takes the lease.
        breached: labels of releases that count as breached.
        residency: of the route; on demand the gap policy is `left`, which must mean a refusal.
    """

    moves: int
    takeovers: int = 1
    breached: tuple[str, ...] = ()
    residency: RouteResidency = RouteResidency.ALWAYS
    rules: Rules = field(default_factory=Rules)
    worlds: int = 0
    steps: int = 0
    _pointers: list[Moved] = field(default_factory=list)
    _entries: list[TableEntry] = field(default_factory=list)
    _places: dict[TableEntry, int] = field(default_factory=dict)
    _next: dict[tuple[int, int], list[tuple[str, int]]] = field(default_factory=dict)
    _verdicts: dict[tuple[int | None, int, int | None, bool], Verdict] = field(default_factory=dict)
    _heard: dict[tuple[int, int], bool] = field(default_factory=dict)

    @property
    def facts(self) -> PointerFacts:
        """All releases are attested and soaked here."""
        return facts(*LABELS, breached=self.breached)

    # ---- the search ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Looks at every world once. Raises: Violation."""
        first = self._add(Moved(PointerState(tenant=KEY[0], route=KEY[1]), None, -1))
        start = World(first, 1, (1, 0), (first, first), frozenset(), 0, None, None, frozenset(), 0, 0)
        self.worlds, self.steps = search(start, self._steps, self._look)

    def _steps(self, world: World) -> Iterator[tuple[str, World]]:
        for hub in range(HUBS):
            holds = world.holds[hub]
            if holds and world.moves < self.moves and (holds == world.epoch or not self.rules.only_the_holder_commits):
                for name, pointer in self._moves(world.folded[hub], holds):
                    entry = self._entry_of(pointer)
                    folded = _with(world.folded, hub, pointer)
                    sent = world.sent | {(entry, holds)}
                    after = replace(world, pointer=pointer, folded=folded, sent=sent, moves=world.moves + 1)
                    yield f"hub {hub} {name}", after
            if holds != world.epoch and world.takeovers < self.takeovers:
                epoch, entry = world.epoch + 1, self._entry_of(world.pointer)
                yield (
                    f"hub {hub} takes over",
                    replace(
                        world,
                        epoch=epoch,
                        holds=_with(world.holds, hub, epoch),
                        folded=_with(world.folded, hub, world.pointer),
                        sent=world.sent | {(entry, epoch)},
                        takeovers=world.takeovers + 1,
                    ),
                )
        for entry, epoch in world.sent:
            if not self._obeyed(world.heard, epoch):
                continue
            for ready in (True, False):
                yield (
                    f"the router gets entry {entry} of epoch {epoch}, ready: {ready}",
                    self._given(replace(world, heard=epoch), entry, ready),
                )
        if world.held is not None and world.held != world.force:
            yield "the release becomes ready", self._given(world, world.held, True)

    def _given(self, world: World, entry: int, ready: bool) -> World:
        waiting = world.held if world.held != world.force else None
        match self._verdict(world.force, entry, waiting, ready):
            case Verdict.FLIP | Verdict.SAME | Verdict.TOMBSTONE:
                return replace(world, held=entry, force=entry, acked=world.acked | {entry})
            case Verdict.WAIT:
                return replace(world, held=entry)
            case _:
                return world

    # ---- what must hold ------------------------------------------------------------------------------------

    def _look(self, before: World, world: World) -> None:
        if before.force is not None:
            was, force = self._entries[before.force], self._entries[world.force] if world.force is not None else None
            if force is None or force.fence < was.fence:
                raise Violation("a router went back to a lower fence")
            if force.fence == was.fence:
                if _id(force) != _id(was):
                    raise Violation("a router changed its release without a move")
                if _step(force) < _step(was):
                    raise Violation("a router went back to an earlier share")
        for entry in world.acked:
            if world.force is None or self._entries[world.force].fence < self._entries[entry].fence:
                raise Violation("a flip was acknowledged that is not in force")
        if world.sent != before.sent:
            self._look_at_fences(world)
        if world.pointer != before.pointer:
            self._look_at_pointer(world.pointer)
            if self._pointers[world.pointer].before != before.pointer:
                raise Violation("a hub committed on something else than the newest state")
        self._look_at_admission(world)
        newest = self._entry_of(world.pointer)
        if self._obeyed(world.heard, world.epoch):
            settled = self._given(replace(world, heard=world.epoch), newest, True)
            if settled.force != newest:
                raise Violation("a router that is given the newest entry does not serve it")

    def _look_at_admission(self, world: World) -> None:
        """Whatever is loaded, what is in force answers alone; until it is, on demand, nobody gets what was left."""
        if world.held is None:
            return
        held, force = self._entries[world.held], self._entries[world.force] if world.force is not None else None
        loaded = {ref.id for ref in (held.current, force.current if force is not None else None) if ref is not None}
        for ready in ((), loaded, loaded - {_id(held)}):
            answers = in_force(held, None, ready, left=force if held != force else None).release
            late = held == force or self.residency is RouteResidency.ON_DEMAND
            if late and answers is not None and answers.id != _id(held):
                raise Violation("a caller was given a left release")

    def _look_at_fences(self, world: World) -> None:
        named: dict[tuple[int, int, int], tuple[str | None, str | None]] = {}
        for place, _ in world.sent:
            entry = self._entries[place]
            arms = (_id(entry), entry.candidate.release.id if entry.candidate else None)
            if named.setdefault((*entry.fence, _step(entry)), arms) != arms:
                raise Violation(f"one fence stands for two moves: {entry.fence}")

    def _look_at_pointer(self, place: int) -> None:
        moved = self._pointers[place]
        pointer, was = moved.pointer, self._pointers[moved.before].pointer
        assert moved.event is not None
        steps = moved.event.kind.value == "candidate_step"
        if pointer.generation != was.generation + (not steps):
            raise Violation(f"a {moved.event.kind.value} went from generation {was.generation} to {pointer.generation}")
        if pointer.candidate is None:
            return
        if moved.event.kind.value not in ("candidate_start", "candidate_step"):
            raise Violation(f"a {moved.event.kind.value} left a candidate")
        target = self._target(pointer)
        if target.action is not PreviewAction.ROLLBACK or target.release == pointer.candidate.release:
            raise Violation("R does not take a candidate out")

    # ---- moves ---------------------------------------------------------------------------------------------

    def _moves(self, place: int, epoch: int) -> list[tuple[str, int]]:
        found = self._next.get((place, epoch))
        if found is None:
            found = self._next[place, epoch] = []
            for name, draft in self._drafts(place):
                number = len(self._pointers)
                event = chain.seal(
                    draft, rev=number, id=f"{number:032x}", txn="0" * 32, epoch=epoch, at_ms=number, prev_hash=GENESIS
                )
                assert event.pointer is not None
                found.append((name, self._add(Moved(event.pointer, event, place))))
        return found

    def _drafts(self, place: int) -> Iterator[tuple[str, Draft]]:
        pointer, generation = self._pointers[place].pointer, self._pointers[place].pointer.generation
        moves: list[tuple[str, Callable[[], Draft]]] = []
        for label in LABELS:
            if rid(label) != pointer.release:
                moves.append((f"promotes {label}", partial(self._promote, pointer, label)))
            moves.append((f"starts {label}", partial(self._start, pointer, label)))
        moves += [(f"gives {permille}", partial(self._step, pointer, permille)) for permille in (0, 500, 1000)]
        moves.append(("finishes", partial(self._finish, pointer)))
        end = CandidateAbortRequest(expected_generation=generation, idempotency_key="abort-key")
        moves.append(("aborts", partial(candidate.abort, pointer, end, RELEASER)))
        moves.append(("rolls back", partial(self._rollback, pointer)))
        fall = FallbackRequest(expected_generation=generation, idempotency_key="fallback-key")
        moves.append(("falls back", partial(rollbacks.fallback, pointer, fall, OPERATOR, rid("base"), allowed=True)))
        moves.append(("undoes", partial(self._undo, place)))
        for name, make in moves:
            try:
                yield name, make()
            except Refused:
                continue

    def _promote(self, pointer: PointerState, label: str) -> Draft:
        forward.check_none_out(pointer)
        request = PromoteRequest(
            release=rid(label), expected_generation=pointer.generation, idempotency_key="promote-key"
        )
        return forward.promote(pointer, request, RELEASER, attested=self.facts.attested)

    def _start(self, pointer: PointerState, label: str) -> Draft:
        one = Candidate(generation=1, permille=100, salt="5a1c02b7", release=rid(label))
        candidate.check_start(pointer, self.facts, one, TenantState(name=pointer.tenant), lacking=())
        request = CandidateStartRequest(
            release=one.release, expected_generation=pointer.generation, idempotency_key="start-key"
        )
        return candidate.start(pointer, one, request, RELEASER, keys=1000)

    def _step(self, pointer: PointerState, permille: int) -> Draft:
        step = pointer.candidate.step if pointer.candidate is not None else 0
        request = CandidateStepRequest(
            expected_generation=pointer.generation, expected_step=step, permille=permille, idempotency_key="step-key"
        )
        return candidate.step(pointer, self.facts, request, RELEASER, keys=1000)

    def _finish(self, pointer: PointerState) -> Draft:
        out = pointer.candidate.release if pointer.candidate is not None else rid("none")
        request = CandidateFinishRequest(
            release=out, expected_generation=pointer.generation, idempotency_key="finish-key"
        )
        return candidate.finish(pointer, self.facts, request, RELEASER)

    def _target(self, pointer: PointerState) -> Target:
        live_is_base = pointer.release == rid("base")
        return rollback_target(
            pointer, self.facts, fallback_allowed=True, live_is_base=live_is_base, pending_prepare=None
        )

    def _rollback(self, pointer: PointerState) -> Draft:
        target = self._target(pointer)
        request = RollbackRequest(
            expected_generation=pointer.generation, to=target.release, confirmed=True, idempotency_key="rollback-key"
        )
        draft = rollbacks.rollback(pointer, request, target, OPERATOR)
        assert isinstance(draft, Draft)
        return draft

    def _undo(self, place: int) -> Draft:
        moved = self._pointers[place]
        if moved.event is None:
            raise Refused("unknown_event", "nothing to undo")
        request = UndoRequest(event=moved.event.id, confirmed=True, idempotency_key="undo-key-1")
        before = {KEY: self._pointers[moved.before].pointer}
        (draft,) = self.rules.undo({KEY: moved.pointer}, [moved.event], before, request, OPERATOR)
        return draft

    # ---- what is kept once -----------------------------------------------------------------------------------

    def _add(self, moved: Moved) -> int:
        self._pointers.append(moved)
        return len(self._pointers) - 1

    def _entry_of(self, place: int) -> int:
        pointer = self._pointers[place].pointer
        names = {rid(label): ref(label) for label in (*LABELS, "base")}
        out = pointer.candidate
        split = out.model_dump(exclude={"release"}) if out is not None else {}
        entry = TableEntry(
            tenant=KEY[0],
            route=KEY[1],
            epoch=pointer.moved_epoch,
            generation=pointer.generation,
            current=names[pointer.release] if pointer.release else None,
            candidate=CandidateRef(release=names[out.release], **split) if out is not None else None,
            residency=self.residency,
        )
        if entry not in self._places:
            self._places[entry] = len(self._entries)
            self._entries.append(entry)
        return self._places[entry]

    def _verdict(self, force: int | None, wanted: int, waiting: int | None, ready: bool) -> Verdict:
        name = (force, wanted, waiting, ready)
        if name not in self._verdicts:
            at = self._entries
            self._verdicts[name] = self.rules.decide(
                at[force] if force is not None else None,
                at[wanted],
                ready,
                None,
                waiting=at[waiting] if waiting is not None else None,
            )
        return self._verdicts[name]

    def _obeyed(self, heard: int, epoch: int) -> bool:
        """Whether an agent that has heard one epoch obeys a whole table of another."""
        if (heard, epoch) not in self._heard:
            message = Desired(epoch=epoch, rev=1, prev_rev=0, hash=GENESIS, entries=(), full=True, table=GENESIS)
            table = DesiredTable(cursor=Cursor(heard, 1, GENESIS))
            self._heard[heard, epoch] = table.judge(message) is Heard.APPLY
        return self._heard[heard, epoch]


def _id(entry: TableEntry) -> str | None:
    return entry.current.id if entry.current is not None else None


def _step(entry: TableEntry) -> int:
    return entry.candidate.step if entry.candidate is not None else -1


def _with(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])
