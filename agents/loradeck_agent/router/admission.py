"""Admits requests: a model's name is looked up to an entry, the release in force and an engine.

The answer of a route is compiled into a `Plan` whenever anything it depends on changes, so that a flip is the
swap of one dict entry and the look-up is one dict get. `Admission.admit` does not await: between reading the
entry and choosing the engine nothing else runs.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from functools import lru_cache

from loradeck.rules.quality.sampling import checked_share
from loradeck.rules.serving import arms, deprecation
from loradeck.rules.serving import flip as rules
from loradeck.rules.serving.cold_queue import is_awaited
from loradeck.rules.serving.router_handover import Stage
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import (
    Callers,
    CohortUnit,
    Pin,
    ReleaseRef,
    ResponseChecks,
    RouteResidency,
    Streams,
    TableEntry,
)
from loradeck_agent.router.caller_keys import ANYBODY, CallerRoutes
from loradeck_agent.router.cold_queue import ColdQueue
from loradeck_agent.router.counters import Counter, End, Stats
from loradeck_agent.router.engine_pools import EnginePool, Replicas
from loradeck_agent.router.fences import FENCE, Fences, fence_of, fence_text
from loradeck_agent.router.hub_silence import HubSilence
from loradeck_agent.router.trace import Row, now_ms
from loradeck_agent.router.votes import Pair, Rate, Seat
from loradeck_agent.router.wire import InForce

DEFAULT_ROUTE = "production"

SILENT_RETRY_S = 5
"""When a caller may try again whose engine does not answer: so soon it is seen to answer again."""

Cohort = Callable[[CohortUnit], str | None]
"""Gives a request's key of a unit; None: it has none."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the digest of the caller's key with the user it names, the request's key of a cohort, whether it tries
    an earlier request again, and its tokens as limits count them.
    """

    name: str
    cohort: Cohort
    repeats: bool
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served. `fix` is for the caller; `counter` counts it, where it was meant for a release."""

    status: int
    code: str
    message: str
    fix: str = ""
    retry_after_s: int | None = None
    counter: Counter | None = None
    param: str | None = None
    """The parameter of the request that is at fault, as OpenAI's errors name it."""
    awaits: str | None = None
    """The release whose load the route's requests wait for, if any."""
    elsewhere: tuple[str, ...] = ()
    """The nodes that serve the pointer, where this one does not."""


@dataclass(frozen=True, slots=True)
class Other:
    """A release that may be asked what callers ask, on an engine that holds it: the one beneath, until a time, or a
    candidate in the shadow of the live one. `permille`: the shadow's share; None: it follows from how much is asked.
    """

    release: str
    replica: EnginePool
    model: str
    until_ms: float = math.inf
    permille: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One engine that a plan may choose, with what every request sent there carries."""

    replica: EnginePool
    model: str
    headers: dict[str, str]
    counter: Counter
    other: Other | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The release that answers a route now. `exact`: it is the entry's own, neither a gap's stand-in nor a pin's."""

    entry: TableEntry
    generation: int
    release: str
    targets: tuple[Target, ...]
    exact: bool
    checks: ResponseChecks
    """The route's response checks, those of what an answer says among them."""
    candidate: Plan | None = None
    """The arm that a share of the callers gets, where an engine here can answer with it."""
    awaits: str | None = None
    """The release whose load the route's requests wait for, before the base stands in for it; None: for none."""


@dataclass(slots=True, eq=False)
class Admitted:
    """One look-up that found an engine.

    `cut` is set when its release was left and its route cuts streams, `hung` when its engine does not answer.
    """

    plan: Plan
    target: Target
    row: Row
    task: asyncio.Task[None] | None
    stale_s: float | None
    cut: bool = False
    hung: bool = False
    pair: Pair | None = None
    """Another release is asked the same."""
    question: bytes | None = None
    """The request's body, where its answer may be kept as a sample or judged."""
    unit: int = 0
    """The unit that it belongs to, by its number in `votes.Repetitions`."""

    @property
    def checks(self) -> ResponseChecks:
        """The checks that the answer to this request is to go through."""
        checks = self.plan.checks
        return checks if self.row.plugins or not checks.content.plugins else checks.without_plugins


@dataclass(slots=True)
class _Route:
    plan: Plan | Refusal
    replica: str = ""
    """The engine that answered last, which refusals are counted for once none is left."""
    open: set[Admitted] = field(default_factory=set)
    rate: Rate = field(default_factory=Rate)


class Admission(CallerRoutes):
    """The routes of this node, by tenant and route, and who may call them."""

    def __init__(self, hub_silence: HubSilence, stats: Stats, cold: ColdQueue) -> None:
        super().__init__()
        self._hub_silence = hub_silence
        self._stats = stats
        self._cold = cold
        self._routes: dict[PointerKey, _Route] = {}
        self._turn = 0
        self._fences = Fences()
        self.stage = Stage.SERVING
        """Whether this router has the right to admit, by `rules.serving.router_handover`."""
        self.cuts: dict[PointerKey, tuple[str, ...]] | None = None
        """Where a router before this one drains: the routes that were cut here and not there yet, with the releases
        that stay."""
        self.draw_models: Callable[[Plan, Row], None] = lambda plan, row: None
        """Decides which models are to look at a request's answer, before anybody knows what that will be."""
        self.other_left: Callable[[PointerKey], None] = lambda key: None
        """Called where a pointer's requests may no longer be asked again of the release that they were."""
        self.lost: Callable[[str, str], None] = lambda replica, release: None
        """Called where an engine says that it does not have a release."""

    # ---- callers -------------------------------------------------------------------------------------------

    def callers(self, key: PointerKey) -> Callers:
        """A route's settings for its callers; the defaults while the route refuses everybody."""
        route = self._routes.get(key)
        return route.plan.entry.callers if route is not None and isinstance(route.plan, Plan) else ANYBODY

    def models(self, tenants: set[str]) -> list[str]:
        """Names under which these tenants' routes can be asked for."""
        names: list[str] = []
        for (tenant, route), held in sorted(self._routes.items()):
            if tenant in tenants and not (isinstance(held.plan, Refusal) and held.plan.status == 404):
                names += [tenant] if route == DEFAULT_ROUTE else []
                names.append(f"{tenant}/{route}")
        return names

    def admit(
        self, key: PointerKey, request: str, caller: Caller, *, streamed: bool, passed_by: EnginePool | None
    ) -> Admitted | Refusal:
        """Chooses the engine for one request, now, and counts it as admitted or refused.

        `passed_by`: an engine that has just failed this request; another one is preferred.
        """
        route = self._routes.get(key)
        if route is None:
            return unknown_route(key)
        plan = route.plan
        if isinstance(plan, Refusal):
            if plan.counter is not None:
                plan.counter.refuse()
            return plan
        mono_ns = time.monotonic_ns()
        stale_s = self._hub_silence.silent_s(mono_ns / 1e9)
        if stale_s is not None and plan.entry.refuse_after_s is not None:
            verdict = rules.in_force(plan.entry, None, (), hub_lost_s=stale_s)
            if verdict.code == "hub_lost":
                plan.targets[0].counter.refuse()
                return _refusal(key, verdict)
        seat: Seat | None = None
        if plan.candidate is not None:
            plan, seat = _arm(plan, plan.candidate, caller.cohort, stale_s)
        targets, now = plan.targets, mono_ns / 1e9
        target = targets[0] if len(targets) == 1 else self._least_open(targets, passed_by, now)
        if target.replica.silent_until > now:
            target.counter.refuse()
            return _silent(key)
        admitted_ms, sample = now_ms(), plan.checks.sample
        rate = route.rate.counted(mono_ns)
        if 0 < sample < 1:
            since_s = (admitted_ms - (plan.entry.moved_ms or 0)) / 1000
            sample = checked_share(sample, since_s, rate, candidate=plan.entry.candidate is not None)
        row = Row(
            request=request,
            tenant=key[0],
            route=key[1],
            release=plan.release,
            generation=plan.generation,
            epoch=plan.entry.fence[0],
            replica=target.replica.at.replica,
            streamed=streamed,
            admitted_ns=mono_ns,
            admitted_ms=admitted_ms,
            sampled=sample >= 1 or random.random() < sample,
            voter=not caller.repeats,
            seat=seat,
        )
        if row.sampled and (plan.checks.content.plugins or plan.entry.judge is not None):
            self.draw_models(plan, row)
        admitted = Admitted(plan, target, row, asyncio.current_task(), stale_s)
        target.replica.take()
        target.counter.admit(row, caller.name, caller.tokens)
        route.open.add(admitted)
        return admitted

    def refuse(self, key: PointerKey, retry_after_s: int | None = None, *, full: bool = False) -> Refusal | None:
        """Counts a request that waited in vain as refused. Returns its refusal; None: the gap policy answers it.

        `retry_after_s`: it may not wait; None: its caller has left. `full`: no slot here can come free for it.
        """
        route = self._routes.get(key)
        if route is None or isinstance(route.plan, Plan):
            return None
        if route.plan.counter is not None:
            route.plan.counter.refuse()
        if route.plan.awaits is None:
            return route.plan
        if full:
            message = f"Pins and routes that are always in memory take every slot here: {'/'.join(key)} gets none."
            return Refusal(503, "no_slot", message, "Try again later, or have this node given more.", retry_after_s)
        message = f"Too many requests wait on this node for releases that are yet to be loaded, {'/'.join(key)}'s too."
        return Refusal(503, "cold_queue_full", message, "Try again.", retry_after_s)

    async def behind(self, key: PointerKey, seen: str | None) -> Refusal | None:
        """Why a request is refused whose gateway has seen a move that this router does not hold, not even soon.

        `seen`: the fence that the gateway sent; None: the caller has no gateway.
        """
        if seen is None or key not in self._routes:
            return None
        fence = fence_of(seen)
        if fence is None:
            return Refusal(400, "bad_fence", f"{FENCE} is no fence.", "Send EPOCH.GENERATION, or leave it out.")
        if await self._fences.reached(key, fence):
            return None
        return Refusal(503, "behind", f"This node has missed a move of {'/'.join(key)}.", "Ask another node.", 1)

    def _least_open(self, targets: tuple[Target, ...], passed_by: EnginePool | None, now: float) -> Target:
        """The engine with the fewest answers under way, of those that answer; those that are even take turns."""
        self._turn = (self._turn + 1) % len(targets)
        in_turn = targets[self._turn :] + targets[: self._turn]

        def rank(target: Target) -> tuple[bool, bool, int]:
            return target.replica.silent_until > now, target.replica is passed_by, target.replica.open

        return min(in_turn, key=rank)

    def silence(self, replica: EnginePool, until: float) -> None:
        """Sends nothing to an engine until a time by the monotonic clock, since it does not answer.

        Requests that it has not begun to answer are looked up again; what it has begun may go on.
        """
        replica.silent_until = until
        for route in self._routes.values():
            for admitted in route.open:
                if admitted.target.replica is not replica or admitted.row.first_token_ns or admitted.task is None:
                    continue
                if not (admitted.hung or admitted.cut):
                    admitted.hung = True
                    admitted.task.cancel()

    def left(self, admitted: Admitted, status: int, end: End) -> None:
        """A request is over; `status` is what the trace shows, 0 where another look-up follows."""
        row = admitted.row
        row.finished_ns = time.monotonic_ns()
        row.status = status
        admitted.target.replica.give_back()
        admitted.target.counter.leave(row, end)
        self._routes[row.tenant, row.route].open.discard(admitted)

    def exact(self, key: PointerKey, fence: tuple[int, int], replica: str) -> tuple[Plan, Target] | None:
        """Looks a route up for a proof, on one engine; None unless exactly this generation is in force there."""
        route = self._routes.get(key)
        if route is None or isinstance(route.plan, Refusal):
            return None
        plan = route.plan
        if not plan.exact or plan.entry.fence != fence:
            return None
        return next(((plan, target) for target in plan.targets if target.replica.name == replica), None)

    def answers(self, key: PointerKey) -> str | None:
        """Release that a route's requests are admitted to now; None while they are refused."""
        route = self._routes.get(key)
        return None if route is None or isinstance(route.plan, Refusal) else route.plan.release

    # ---- the switch ----------------------------------------------------------------------------------------

    def swap(self, entry: TableEntry, plan: Plan | Refusal) -> None:
        """From here on every look-up of this route finds this plan. Answers of a release that went are cut if asked."""
        key = entry.key
        self._fences.hold(key, entry.fence)
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = _Route(plan)
        before, route.plan = route.plan, plan
        self._cold.awaits(key, plan.awaits)
        if (others := _others(before)) and others != _others(plan):
            self.other_left(key)
        if isinstance(plan, Plan):
            route.replica = plan.targets[0].replica.name
        if entry.streams is Streams.CUT and (stays := _stays(entry, plan)):
            self.cut(key, stays)
            if self.cuts is not None:
                self.cuts[key] = stays

    def answering(self, key: PointerKey) -> set[str]:
        """Releases of a route's answers that are under way and were not cut."""
        route = self._routes.get(key)
        return {at.row.release for at in (route.open if route is not None else ()) if not at.cut}

    def cut(self, key: PointerKey, stays: Container[str]) -> None:
        """Cuts a route's answers under way but for those of the releases that stay."""
        route = self._routes.get(key)
        for admitted in route.open if route is not None else ():
            if admitted.row.release not in stays and not admitted.cut and admitted.task is not None:
                admitted.cut = True
                admitted.task.cancel()

    def compile(self, entry: TableEntry, pin: Pin | None, force: InForce | None, replicas: Replicas) -> Plan | Refusal:
        """Compiles the plan of a route from its durable state and the releases that its engines hold."""
        wanted = pin.release if pin is not None else entry.current
        flipped = force is not None and force.is_of(entry, wanted)
        left = None if flipped or force is None else force.as_entry()
        # A release counts as ready only once the flip to it is durable: until then it is one to come.
        candidates = (wanted if flipped else None, left.current if left else None)
        ready = {ref.id for ref in candidates if ref is not None and any(replica.serves(ref) for replica in replicas)}
        verdict = rules.in_force(entry, pin, ready, left=left)
        awaits: str | None = None
        if verdict.gap and entry.current is not None:
            engine = any(replica.runs(entry.current.release.served_base) for replica in replicas)
            if is_awaited(entry, flipped=flipped, pinned=pin is not None, engine=engine):
                awaits = entry.current.id
        if verdict.code is not None:
            return replace(self._refusing(entry, wanted, replicas, verdict), awaits=awaits)
        ref = verdict.release
        if ref is None and wanted is not None:  # the gap policy says the base alone
            ref = base_alone(entry.tenant, wanted.release.base)
        exact = not verdict.gap and not verdict.pinned
        plan = self._plan(entry, verdict.generation, ref, replicas, exact=exact) if ref is not None else None
        if plan is not None and awaits is not None:
            plan = replace(plan, awaits=awaits)
        if plan is not None and exact and flipped and entry.candidate is not None and not entry.candidate.shadow:
            arm = self._plan(entry, verdict.generation, entry.candidate.release, replicas, exact=False)
            plan = replace(plan, candidate=arm)
        if plan is not None and exact and flipped and (again := _asked_again(entry)) is not None:
            plan = replace(plan, targets=_with_other(plan, *again, replicas))
        not_ready = rules.AdmissionDecision(code="not_ready", retry_after_s=rules.RETRY_AFTER_S)
        return plan or self._refusing(entry, wanted, replicas, not_ready)

    def _refusing(
        self, entry: TableEntry, wanted: ReleaseRef | None, replicas: Replicas, verdict: rules.AdmissionDecision
    ) -> Refusal:
        """The refusal of a route, with the counter of the release that was wanted on the engine that should have it."""
        refusal = _refusal(entry.key, verdict)
        if wanted is None:
            return replace(refusal, elsewhere=entry.elsewhere)
        route = self._routes.get(entry.key)
        runs = [replica.name for replica in replicas if replica.runs(wanted.release.served_base)]
        names = (*runs, route.replica if route else "", *(replica.name for replica in replicas))
        name = next(filter(None, names), "")
        counter = self._stats.refusals(entry.tenant, entry.route, entry.generation, wanted.id, name)
        return replace(refusal, counter=counter)

    def _plan(
        self, entry: TableEntry, generation: int, ref: ReleaseRef, replicas: Replicas, *, exact: bool
    ) -> Plan | None:
        """A plan for one release; None when no engine holds it."""
        deprecated = next((one for one in entry.deprecated if one.release == ref.id), None)
        told = deprecation.headers(deprecated) if deprecated is not None else {}
        targets = tuple(
            Target(
                replica=replica,
                model=replica.model_name(ref),
                headers={
                    "x-loradeck-release": ref.id,
                    "x-loradeck-base": ref.release.served_base,
                    "x-loradeck-adapter": ref.release.adapter or "none",
                    "x-loradeck-generation": str(generation),
                    FENCE: fence_text(entry.fence),
                    "x-loradeck-replica": replica.name,
                    **told,
                },
                counter=self._stats.counter(entry.tenant, entry.route, generation, ref.id, replica.name),
            )
            for replica in replicas
            if replica.serves(ref)
        )
        for target in targets if deprecated is not None else ():
            target.counter.called_by = target.counter.called_by or {}
        checks = entry.checks.with_content(entry.content)
        return Plan(entry, generation, ref.id, targets, exact, checks) if targets else None


def _asked_again(entry: TableEntry) -> tuple[ReleaseRef, float, int | None] | None:
    """The release that an entry wants to be asked again, until when (hub time, ms), and a shadow's share."""
    split = entry.candidate
    if split is not None and split.shadow:
        return (split.release, math.inf, split.permille) if split.permille else None
    if entry.asked_again_until_ms is not None and entry.beneath:
        return entry.beneath[0], entry.asked_again_until_ms, None
    return None


def _with_other(
    plan: Plan, ref: ReleaseRef, until_ms: float, permille: int | None, replicas: Replicas
) -> tuple[Target, ...]:
    """The targets of a plan with the release that is asked again, on the same engine or else on any that holds it."""
    holders, found = [replica for replica in replicas if replica.serves(ref)], list[Target]()
    for target in plan.targets:
        replica = target.replica if target.replica in holders else next(iter(holders), None)
        other = Other(ref.id, replica, replica.model_name(ref), until_ms, permille) if replica is not None else None
        found.append(replace(target, other=other))
    return tuple(found)


def _others(plan: Plan | Refusal) -> list[object]:
    """The release that is asked a plan's requests again and on which engines, under its fence; []: none is."""
    asked = [t.other for t in plan.targets if t.other is not None] if isinstance(plan, Plan) else []
    fence = plan.entry.fence if isinstance(plan, Plan) else None
    return [(fence, other.release, other.replica) for other in asked]


def _stays(entry: TableEntry, plan: Plan | Refusal) -> tuple[str, ...]:
    """The releases whose answers go on where a route cuts those of a left one; (): no release was left."""
    arms = (entry.candidate.release.id,) if entry.candidate is not None else ()
    if isinstance(plan, Plan):
        return (plan.release, *(arms if plan.exact else ()))
    if entry.residency is RouteResidency.ALWAYS or entry.current is None or entry.suspended:
        return ()
    return (entry.current.id, *arms)  # on demand a release is left with the move, though the next is yet to be loaded


def _arm(live: Plan, candidate: Plan, cohort: Cohort, stale_s: float | None) -> tuple[Plan, Seat | None]:
    """The arm that answers one request, and where its key sits: a named one nowhere, since chance did not choose it.

    The key counts as seen, whichever arm it gets.
    """
    split = live.entry.candidate
    assert split is not None
    key = cohort(split.unit)
    arm = arms.arm(split, key, ready=True, hub_lost_s=stale_s)
    seat: Seat | None = None
    if key is not None and arm.exposed:
        place, bin_ = arms.seat(split.salt, key)
        candidate.targets[0].counter.places.add(place)
        seat = Seat(split.step, place, bin_) if key not in split.named else None
    return (candidate if arm.candidate else live), seat


def _refusal(key: PointerKey, verdict: rules.AdmissionDecision) -> Refusal:
    """The refusal of a request for each code of the rules."""
    code = verdict.code or "not_ready"
    name = "/".join(key)
    listed = "GET /v1/models lists what this key may use."
    status, message, fix = {
        "unknown_route": (404, f"No model {name} is routed here.", listed),
        "removed": (404, f"The model {name} has been removed.", listed),
        "not_here": (404, f"The model {name} is served by other nodes, and not by this one.", "Ask one of them."),
        "suspended": (403, f"{key[0]} is suspended.", "Ask the operators of this fleet."),
        "hub_lost": (503, f"This node has lost its hub for longer than {name} allows.", "Try again."),
        "not_ready": (503, f"The release of {name} is not loaded on this node.", "Try again."),
    }[code]
    return Refusal(status, code, message, fix, verdict.retry_after_s)


def unknown_route(key: PointerKey) -> Refusal:
    """The refusal of a route that is not here, and of one that belongs to another tenant."""
    return _refusal(key, rules.AdmissionDecision(code="unknown_route"))


def _silent(key: PointerKey) -> Refusal:
    """The refusal of a route all of whose engines here do not answer."""
    message = f"No engine of this node that holds {'/'.join(key)} answers."
    return Refusal(503, "engine_silent", message, "Ask another node, or try again.", SILENT_RETRY_S)


def untold(key: PointerKey) -> Refusal:
    """The refusal of a route of which this node has lost a move that its read-only disk could not keep."""
    name = "/".join(key)
    return Refusal(503, "untold", f"This node has lost a move of {name}, and waits to be told.", "Ask another node.", 1)


@lru_cache(maxsize=4096)
def base_alone(tenant: str, base: str) -> ReleaseRef:
    """The release of a tenant's base without an adapter, which stands in under gap policy `base`."""
    return ReleaseRef.of_base(tenant, base)
