"""People who move pointers through the hub's own calls, and callers who are answered at the nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.fleets.in_process.simulated.event_loop import Process, current
from tests.fleets.in_process.simulated.hub_process import RELEASES, ROUTE, TENANTS
from tests.simulation.oracle import Oracle

from loradeck.hub.access.auth import Caller
from loradeck.hub.api import campaigns, candidates, moves, nodes, pools, rewind, tenants
from loradeck.hub.api.parameters import Waiting
from loradeck.hub.hub import Hub
from loradeck.rules.errors import Refused
from loradeck.rules.moves import candidate as rules
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.rules.serving.counting import flip_counts
from loradeck.schemas.campaign import (
    CampaignChange,
    CampaignPlan,
    CampaignRequest,
    CampaignRewind,
    CampaignState,
    CampaignTarget,
)
from loradeck.schemas.candidate import Candidate, Figure, StepPlan
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.log import Draft
from loradeck.schemas.moves import (
    CandidateAbortRequest,
    CandidateCompareRequest,
    CandidateFinishRequest,
    CandidateHoldRequest,
    CandidateStartRequest,
    CandidateStepRequest,
    FallbackRequest,
    ForgetRequest,
    HoldRequest,
    LiftRequest,
    MoveResult,
    PromoteRequest,
    RecoverRequest,
    RecoveryPlan,
    RewindPlan,
    RewindRequest,
    UndoRequest,
    UnpinRequest,
)
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.route import Guard, Pooled
from loradeck.schemas.state import RelabelRequest
from loradeck.schemas.table import CohortUnit, Gap, Pin, ReleaseRef, RouteResidency
from loradeck.store.interface import OutcomeUnknown, StoreError
from loradeck_agent.cli.pin import choose
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.router.admission import Admitted
from loradeck_agent.router.client import RouterControl

PERSON = Caller(actor="ann", role=Role.RELEASER, local=True)
SCHEDULE = Actor(name="schedule", role=Role.RELEASER, automation=True)
AT_ONCE = Waiting("committed", 0)
RESIDENCIES = (RouteResidency.ALWAYS, RouteResidency.ON_DEMAND)
POOL = "all"
USERS = 17
"""Users who ask in turn. Odd, so that each comes to every node."""

ASKS = {
    "promote": 9,
    "rollback": 7,
    "undo": 2,
    "rewind": 2,
    "hold": 1,
    "lift": 2,
    "fallback": 1,
    "unpin": 1,
    "place": 1,
    "candidate": 12,
}
"""Each request that people make of a hub, and its weight in the draw of the next one."""

UNDER = {"ticket": "CHG-1"}
"""The change ticket under which people move forward. What goes back has none."""

WITH_CAMPAIGNS = {**ASKS, "campaign": 4}
"""As `ASKS`, of every fourth seed."""

PLAN = StepPlan(steps=(400, 600, 900), margin=1.0, min_s=1, figures=(Figure.ERRORS,), finish=True)
"""The hub steps by it where seventeen users are enough to see anything at all."""

Call = Callable[[Hub], Awaitable[Any]]


@dataclass(eq=False)
class Person:
    """Somebody with a console: looks at a pointer, moves it, and sends a move again when no answer came."""

    process: Process
    hub: str
    oracle: Oracle
    moves: int
    asks: Sequence[str] = ()
    campaigns: bool = False
    moved: int = 0
    unknown: list[tuple[str, Call]] = field(default_factory=list)

    async def main(self) -> None:
        """Makes its moves, one after the other."""
        draw = self.process.scheduler.random
        while self.moved < self.moves:
            await asyncio.sleep(draw.expovariate(0.7))
            self.moved += 1
            await self._one()
        await self.process.create_future()

    async def _call(self, call: Call, timeout: float = 8.0) -> Any:
        network = self.process.host.network
        return await network.call(self.hub, "http", "CALL", "", call, timeout=timeout)

    async def _one(self) -> None:
        draw = self.process.scheduler.random
        key = (draw.choice(TENANTS), ROUTE)
        try:
            seen = await self._call(lambda hub: _look(hub, key))
        except (Unreachable, Refused, StoreError):
            return
        if draw.random() < 0.1:
            await asyncio.sleep(draw.uniform(0, 3))  # somebody thinks, and what was seen grows old
        name = f"key-{draw.getrandbits(64):016x}"
        usual = WITH_CAMPAIGNS if self.campaigns else ASKS
        what = draw.choices(list(self.asks or usual), None if self.asks else list(usual.values()))[0]
        call = self._move(what, key, seen, name)
        if call is None:
            return
        self.process.scheduler.note("asks", what, "/".join(key), name, "at", flip_counts(seen["row"]))
        self.oracle.counts[f"asked {what}"] += 1
        await self._send(name, call)

    async def _send(self, name: str, call: Call) -> None:
        """Sends a move until its outcome is known, or patience is over."""
        draw = self.process.scheduler.random
        if draw.random() < 0.1:
            self.process.create_task(self._quietly(call))  # a proxy sends it twice
        for _ in range(4):
            try:
                result = MoveResult.model_validate_json((await self._call(call)).body)
            except (Unreachable, OutcomeUnknown):
                await asyncio.sleep(draw.uniform(0.2, 2))
                continue
            except (Refused, StoreError) as refused:
                self.oracle.counts[f"refused {refused.code}"] += 1
                return
            if result.pending is not None:
                await asyncio.sleep(1.0)
                continue
            self.oracle.moved(name, result.events)
            return
        self.oracle.counts["outcome unknown"] += 1

    async def _quietly(self, call: Call) -> None:
        try:
            await self._call(call)
        except (Unreachable, Refused, StoreError):
            return

    def _move(self, what: str, key: PointerKey, seen: dict[str, Any], name: str) -> Call | None:
        draw, (tenant, route) = self.process.scheduler.random, key
        generation, common = seen["generation"], {"idempotency_key": name, "reason": "a simulation"}
        wait = Waiting(draw.choice(("committed", "flipped", "proven")), draw.uniform(0, 4))
        match what:
            case "promote":
                release = draw.choice(RELEASES[tenant]).id
                promote = PromoteRequest(
                    release=release, expected_generation=generation, override=True, **UNDER, **common
                )
                return lambda hub: moves.promote(tenant, route, promote, hub, PERSON, wait)
            case "rollback":
                try:
                    back = rollback_request(seen["row"].preview, key=name, confirmed=True, reason=common["reason"])
                except Refused:  # the console says so, and sends nothing
                    self.oracle.counts["rollbacks to nowhere"] += 1
                    return None
                return lambda hub: moves.rollback(tenant, route, back, hub, PERSON, wait)
            case "undo" if seen["last"] is not None:
                undo = UndoRequest(event=seen["last"], **common)
                return lambda hub: moves.undo_event(tenant, route, undo, hub, PERSON, wait)
            case "rewind":
                to = max(1, seen["rev"] - draw.randint(1, 6))
                asked = RewindRequest(to_rev=to, dry_run=False, generations=seen["generations"], **common)
                return lambda hub: rewind.rewind(asked, hub, PERSON, wait)
            case "hold":
                hold = HoldRequest(held=draw.random() < 0.3, expected_generation=generation, **common)
                return lambda hub: moves.hold(tenant, route, hold, hub, PERSON)
            case "lift" if seen["quarantined"]:
                lift = LiftRequest(release=draw.choice(seen["quarantined"]), **common)
                return lambda hub: moves.lift(tenant, route, lift, hub, PERSON)
            case "fallback":
                fallback = FallbackRequest(expected_generation=generation, **common)
                return lambda hub: moves.fallback(tenant, route, fallback, hub, PERSON, wait)
            case "campaign":
                return self._campaign(seen["campaign"], name, wait)
            case "candidate":
                return self._candidate(key, seen, common, wait)
            case "unpin" if seen["pins"]:
                unpin = UnpinRequest(node=draw.choice(seen["pins"]), **common)
                return lambda hub: moves.unpin(tenant, route, unpin, hub, PERSON)
            case "place":
                zone = draw.choice(({}, {"zone": "a"}, {"zone": "b"}))
                update = {
                    "placement": zone,
                    "pool": None,
                    "refuse_after_s": (None, None, 3.0, 8.0)[int(name[-1], 16) % 4],
                    "residency": draw.choice(RESIDENCIES),
                    "gap": draw.choice(list(Gap)),
                    "guard": (Guard.OFF, Guard.ROLLBACK)[int(name[-2], 16) % 2],
                }
                return lambda hub: place(hub, key, update)
            case _:
                return None

    def _campaign(self, newest: str | None, name: str, wait: Waiting) -> Call:
        """Starts a campaign, or stops, pauses, resumes or rewinds the newest one."""
        draw, change = self.process.scheduler.random, CampaignChange(idempotency_key=name, reason="a simulation")
        if newest is None or draw.random() < 0.1:
            plan = CampaignPlan(wave=draw.choice((1, 2)), steps=draw.choice((None, PLAN)), ungated=True, patience_s=60)
            targets = tuple(
                CampaignTarget(tenant=tenant, route=ROUTE, release=draw.choice(RELEASES[tenant]).id)
                for tenant in TENANTS
            )
            begun = CampaignRequest(campaign=name, plan=plan, targets=targets, idempotency_key=name)
            return lambda hub: _moves_nothing(hub, campaigns.start(begun, hub, PERSON))
        what = draw.choice((campaigns.pause, campaigns.resume, campaigns.stop, None, None, None, None))
        if what is not None:
            return lambda hub: _moves_nothing(hub, what(newest, change, hub, PERSON))
        asked = CampaignRewind(idempotency_key=name, reason="a simulation")

        async def rewound(hub: Hub) -> Any:
            planned = await campaigns.put_back(newest, asked, hub, PERSON, wait)
            steps = RewindPlan.model_validate_json(planned.body).steps
            at = {f"{step.tenant}/{step.route}": step.generation for step in steps}
            return await campaigns.put_back(
                newest, asked.model_copy(update={"dry_run": False, "generations": at}), hub, PERSON, wait
            )

        return rewound

    def _candidate(self, key: PointerKey, seen: dict[str, Any], common: dict[str, Any], wait: Waiting) -> Call:
        """Starts a candidate, or goes on with the one that is out: a person, or the hub by itself."""
        draw, (tenant, route) = self.process.scheduler.random, key
        common = {"expected_generation": seen["generation"], **common}
        out: Candidate | None = seen["candidate"]
        if out is None:
            named = ("user-0",) if draw.random() < 0.8 else ()
            begun = CandidateStartRequest(
                release=draw.choice(RELEASES[tenant]).id,
                unit=CohortUnit.USER,
                permille=draw.choice((0, 200, 500)) if named else 0,
                named=named if not (shadow := int(common["idempotency_key"][-3], 16) % 3 == 0) else (),
                shadow=shadow,
                lease_s=10,
                plan=PLAN if draw.random() < 0.7 and not shadow else None,
                override=True,
                **UNDER,
                **common,
            )
            return lambda hub: candidates.start(tenant, route, begun, hub, PERSON, wait)
        permille = min(1000, max(0, out.permille + draw.choice((-200, 100, 300, 500))))
        asks = {"step": 6, "finish": 1, "abort": 1, "automation": 3, "hold": int(out.plan is not None), "compare": 2}
        match draw.choices(list(asks), list(asks.values()))[0]:
            case "compare":
                until_ms = int(self.process.wall() * 1000) + draw.choice((1_500, 4_000))
                ab = CandidateCompareRequest(
                    figure=Figure.ERRORS, until_ms=until_ms, permille=500, expected_step=out.step, **UNDER, **common
                )
                return lambda hub: candidates.compare(tenant, route, ab, hub, PERSON)
            case "hold":
                hold = CandidateHoldRequest(held=out.plan is not None and not out.plan.held, **common)
                return lambda hub: candidates.hold(tenant, route, hold, hub, PERSON)
            case "step":
                step = CandidateStepRequest(expected_step=out.step, permille=permille, **UNDER, **common)
                return lambda hub: candidates.step(tenant, route, step, hub, PERSON)
            case "finish":
                finish = CandidateFinishRequest(release=out.release, override=True, **UNDER, **common)
                return lambda hub: candidates.finish(tenant, route, finish, hub, PERSON, wait)
            case "abort":
                abort = CandidateAbortRequest(**common)
                return lambda hub: candidates.abort(tenant, route, abort, hub, PERSON, wait)
            case _:
                what, name = draw.choice(("step", "finish", "abort")), common["idempotency_key"]
                return lambda hub: _by_itself(hub, key, what, permille, name)

    async def recover(self, *, unproven: bool) -> None:
        """`loradeck hub recover`. `unproven`: nodes that have no signature to show for what they have seen too."""
        name = f"key-{self.process.scheduler.random.getrandbits(64):016x}"
        request = RecoverRequest(idempotency_key=name, reason="restored", unproven=unproven)
        try:
            planned = await self._call(lambda hub: rewind.recover(request, hub, PERSON), timeout=20)
            plan = RecoveryPlan.model_validate_json(planned.body)
            done = request.model_copy(update={"dry_run": False, "plan": plan.digest})
            await self._call(lambda hub: rewind.recover(done, hub, PERSON), timeout=20)
        except (Unreachable, Refused, StoreError) as error:
            self.process.scheduler.note("recover", error)

    async def unpin_all(self) -> bool:
        """Ends every pin that the hub knows. Returns whether there was one."""
        found = False
        for tenant in TENANTS:
            key = (tenant, ROUTE)
            try:
                seen = await self._call(lambda hub, key=key: _look(hub, key))
                for node in seen["pins"]:
                    found = True
                    name = f"key-{self.process.scheduler.random.getrandbits(64):016x}"
                    request = UnpinRequest(node=node, idempotency_key=name)
                    await self._call(
                        lambda hub, request=request, tenant=tenant: moves.unpin(tenant, ROUTE, request, hub, PERSON)
                    )
            except (Unreachable, Refused, StoreError):
                found = True
        return found


async def _by_itself(hub: Hub, key: PointerKey, what: str, permille: int, name: str) -> Any:
    """What the hub does with a candidate by itself. It looks at the pointer as it is, and a press of R does not."""

    def decide() -> list[Draft]:
        pointer, facts = hub.log.state.pointer(key), hub.facts.of(key)
        at: dict[str, Any] = {"expected_generation": pointer.generation, "idempotency_key": name}
        if what == "abort" or pointer.candidate is None:
            return [rules.abort(pointer, CandidateAbortRequest(**at), SCHEDULE)]
        if what == "finish":
            last = CandidateFinishRequest(release=pointer.candidate.release, **at)
            return [rules.finish(pointer, facts, last, SCHEDULE)]
        share = CandidateStepRequest(expected_step=pointer.candidate.step, permille=permille, **at)
        return [rules.step(pointer, facts, share, SCHEDULE, keys=rules.FEWEST_KEYS)]

    return moves.answer(await moves.move(hub, PERSON, name, decide))


async def _moves_nothing(hub: Hub, call: Awaitable[Any]) -> Any:
    """What a call about a campaign is answered with here: as a move that made no event."""
    await call
    return moves.answer(moves.nothing_moved(hub))


async def upgrade(hub: Hub, name: str, engine: str, wave: int) -> Any:
    """`loradeck campaign start --engine`, of all nodes."""
    plan = CampaignPlan(engine=engine, wave=wave, patience_s=60)
    begun = CampaignRequest(campaign=name, plan=plan, idempotency_key=name)
    return await _moves_nothing(hub, campaigns.start(begun, hub, PERSON))


async def drain(hub: Hub, node: str) -> Any:
    """`loradeck node drain`. It is answered like a move that made no event."""
    await nodes.drain(node, hub, PERSON)
    return moves.answer(moves.nothing_moved(hub))


async def relabel_all(process: Process, hub: str) -> bool:
    """`loradeck node relabel` of every node that says other labels. Returns whether there was one."""
    found = list[str]()

    async def agree(hub: Hub) -> Any:
        for row in await nodes.listed(hub, PERSON):
            if row.says is not None:
                found.append(row.node)
                await nodes.relabel(row.node, RelabelRequest(labels=row.says), hub, PERSON)
        return moves.answer(moves.nothing_moved(hub))

    return not await order(process, hub, agree) or bool(found)


async def order(process: Process, hub: str, call: Call) -> bool:
    """Gives the hub an order until it is answered. Returns whether it was."""
    for _ in range(20):
        try:
            await process.host.network.call(hub, "http", "CALL", "", call, timeout=8)
        except (Unreachable, OutcomeUnknown):
            await asyncio.sleep(0.5)
        except (Refused, StoreError):
            return True
        else:
            return True
    return False


async def forget(process: Process, hub: str, node: str) -> bool:
    """`loradeck node forget`, by somebody who is told that the node is off. Returns whether it was answered."""
    request = ForgetRequest(idempotency_key=f"forget-{process.pid}", reason="it is off")
    return await order(process, hub, lambda hub: nodes.forget(node, request, hub, PERSON))


async def place(hub: Hub, key: PointerKey, update: dict[str, Any]) -> Any:
    """Sets where a route is placed, and how. It is answered like a move that made no event."""
    config = hub.log.state.config(key).model_copy(update=update)
    await tenants.set_route(*key, config, hub, PERSON)
    return moves.answer(moves.nothing_moved(hub))


async def pool_route(hub: Hub, key: PointerKey, replicas: int, spread: str) -> Any:
    """Makes a pool of all nodes, and places a route in it."""
    if POOL not in hub.log.state.pools:
        await pools.set_pool(POOL, PoolConfig(), hub, PERSON)
    return await place(hub, key, {"placement": {}, "pool": Pooled(pool=POOL, replicas=replicas, spread=spread)})


async def _look(hub: Hub, key: PointerKey) -> dict[str, Any]:
    """What a console shows of a pointer."""
    state = hub.log.state
    pointer = state.pointer(key)
    return {
        "row": hub.rows.tenant(key),
        "generation": pointer.generation,
        "candidate": pointer.candidate,
        "last": pointer.last_move,
        "rev": state.rev,
        "campaign": next((one.campaign for one in hub.campaigns.all() if one.state is not CampaignState.REWOUND), None),
        "generations": {f"{t}/{r}": p.generation for (t, r), p in state.pointers.items()},
        "quarantined": [q.release for q in pointer.quarantined],
        "pins": [
            node.name
            for node in hub.fleet.nodes.values()
            for pin in node.pins
            if (pin.tenant, pin.route) == key and not hub.pins.is_over(node.name, pin)
        ],
    }


async def pin_on_node(key: PointerKey) -> None:
    """`loradeck-agent pin`, on the host of the running process."""
    process = current()
    assert process is not None
    draw = process.scheduler.random
    node = process.host.node
    router = RouterControl(node.agent.folder)
    try:
        state = await router.state()
        entry = next((entry for entry in state.entries if entry.key == key), None)
        if entry is None or entry.current is None:
            return
        refs: list[ReleaseRef] = [ref for ref in (entry.current, *entry.beneath) if ref is not None]
        ref = choose(entry, draw.choice(refs).id)
        pin = Pin(
            tenant=key[0],
            route=key[1],
            release=ref,
            over=entry.fence,
            actor="bob",
            reason="the hub is away",
            at_ms=int(process.wall() * 1000),
        )
        node.oracle.pinned.add((node.name, key))
        process.scheduler.note("pins", node.name, "/".join(key))
        await router.pin(pin)
        if node.agent_process is not None and node.agent_process.alive and node.agent is not None:
            node.agent_process.call_soon(node.agent.sync.look_at_pins)
    except AgentError:
        return


def ask(asked: dict[str, Any], oracle: Oracle) -> None:
    """One user of each pointer on each node."""
    for name, node in asked.items():
        for tenant in TENANTS:
            key = (tenant, ROUTE)
            oracle.turn += 1
            user = f"user-{oracle.turn % USERS}"
            if node.let_wait(key, user):
                oracle.refused(name, key)
                continue
            answer = node.admit(key, user)
            if not isinstance(answer, Admitted):
                oracle.refused(name, key)
            if answer is None:
                oracle.counts["callers unreachable"] += 1
            elif isinstance(answer, Admitted):
                oracle.answered(name, node.answered_by, key, answer, user)
            else:
                oracle.counts[f"callers refused {answer.code}"] += 1
