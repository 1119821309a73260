"""The control socket, on which the agent calls its router. Reachable by this user alone."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ValidationError

from loradeck.rules.serving.router_handover import may_acknowledge, may_admit
from loradeck.schemas.counts import Traffic
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack, SampleAsk, TraceAsk
from loradeck.schemas.problem import MEDIA_TYPE, Problem
from loradeck.schemas.protocol import PROTOCOL, SUPPORTED
from loradeck.schemas.table import Pin, RouteResidency
from loradeck.strangers.connections import Connections
from loradeck_agent.host.state_folder import user_at
from loradeck_agent.router.admission import Admission
from loradeck_agent.router.cold_queue import ColdQueue
from loradeck_agent.router.counters import Stats
from loradeck_agent.router.handover import Predecessor
from loradeck_agent.router.hub_silence import HubSilence
from loradeck_agent.router.samples import Samples
from loradeck_agent.router.switch import Switch, Unacceptable
from loradeck_agent.router.table import Contents, TableFault
from loradeck_agent.router.trace import Trace
from loradeck_agent.router.wire import (
    Acks,
    ByRoute,
    ColdAsk,
    Engines,
    HandOver,
    HubLink,
    ProofRequest,
    RouterState,
    RouterStats,
    SilentEngine,
    TableUpdate,
    Unpin,
)

_DRAIN = "/control/drain/"
"""What a router that has handed over is called for, and no other."""

HANDED_OVER = Problem(
    status=503,
    code="handed_over",
    title="Another router serves this node now.",
    detail="this one only ends what it has admitted",
    fix="Call again: the other one answers here.",
)


def _peer(request: web.Request) -> int | None:
    """The user that calls; None where the connection has ended."""
    connection = request.transport.get_extra_info("socket") if request.transport is not None else None
    return user_at(connection) if connection is not None else None


@dataclass(eq=False, kw_only=True)
class Control:
    """The calls of the control socket, each answered with a body of `wire`."""

    boot: str
    contents: Contents
    switch: Switch
    admission: Admission
    hub_silence: HubSilence
    connections: Connections
    stats: Stats
    trace: Trace
    samples: Samples
    cold: ColdQueue
    hands_over: Callable[[HandOver], None]
    build: str
    predecessor: Predecessor | None = None
    """The router before this one, while it drains."""
    asks_user: bool = False
    """Whether the server compares the caller's user with its own, since its address has no file mode that does."""
    _cutting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _proving: list[tuple[str, str]] = field(default_factory=list)
    """Replica and release of each proof under way."""
    _engines_at_ns: int = 0
    """When the engines that are used were sent, by the host's monotonic clock."""

    def app(self) -> web.Application:
        """The aiohttp application that serves the calls."""
        app = web.Application(client_max_size=256 * 2**20, middlewares=[self._answer_problems])
        app.router.add_get("/control/state", self._state)
        app.router.add_get("/control/stats", self._get_stats)
        app.router.add_get("/control/use", self._use)
        app.router.add_get("/control/trace", self._get_trace)
        app.router.add_get("/control/trace/newest", self._get_newest)
        app.router.add_get("/control/samples", self._get_samples)
        app.router.add_post("/control/table", self._table)
        app.router.add_post("/control/engines", self._engines)
        app.router.add_post("/control/silent", self._silent)
        app.router.add_post("/control/pin", self._pin)
        app.router.add_post("/control/unpin", self._unpin)
        app.router.add_post("/control/hub", self._hub)
        app.router.add_post("/control/cold", self._wanted)
        app.router.add_post("/control/proof", self._proof)
        app.router.add_post("/control/hand-over", self._hand_over)
        app.router.add_get(f"{_DRAIN}stats", self._get_drain_stats)
        app.router.add_post(f"{_DRAIN}cut", self._cut)
        return app

    @web.middleware
    async def _answer_problems(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self.asks_user and _peer(request) not in (os.geteuid(), 0):
            return _problem(403, "forbidden", "This socket is for the agent.", "another user called", "See `status`.")
        serves = may_admit(self.admission.stage)
        if serves is request.path.startswith(_DRAIN):
            return _refused(HANDED_OVER)
        if serves:
            self.hub_silence.agent_called()
        try:
            return await handler(request)
        except Unacceptable as no:
            return _refused(no.as_problem(no.status))
        except TableFault as fault:
            return _refused(fault.as_problem(507))
        except ValidationError as bad:
            return _problem(400, "bad_body", "The body does not fit this call.", str(bad), "See docs/architecture.md.")

    # ---- reading -------------------------------------------------------------------------------------------

    async def _state(self, request: web.Request) -> web.Response:
        held, entries = self.contents, tuple(self.contents.entries.values())
        if "protocol" not in request.query:  # an agent of version 1, which cannot read signed texts
            entries = tuple(entry.unsigned() for entry in entries)
        return _answer(
            RouterState(
                pid=os.getpid(),
                boot=self.boot,
                **vars(held.cursor),
                entries=entries,
                pins=tuple(held.pins.values()),
                in_force=tuple(held.in_force.values()),
                ready={at.replica: at.ready for at in held.engines},
                features=tuple(sorted(SUPPORTED)),
                protocol=PROTOCOL,
                volatile=self.switch.volatile,
                build=self.build,
                drains=self.predecessor.pid if self.predecessor is not None else None,
            )
        )

    async def _get_stats(self, request: web.Request) -> web.Response:
        rows = self.stats.traffic()
        asked = sum(row.attempted or 0 for row in rows if self._is_on_demand((row.tenant, row.route)))
        if self.predecessor is not None:
            rows = _with_streams(rows, await self.predecessor.streams())
        cold = self.cold.figures(asked)
        return _answer(
            RouterStats(
                boot=self.boot,
                traffic=tuple(rows),
                trouble=self.switch.trouble or self.connections.trouble,
                connections=tuple(self.connections.most()),
                cold=cold,
            )
        )

    def _is_on_demand(self, key: PointerKey) -> bool:
        entry = self.contents.entries.get(key)
        return entry is not None and entry.residency is RouteResidency.ON_DEMAND

    async def _use(self, request: web.Request) -> web.Response:
        """Answers `GET /control/use`, which the agent asks before it loads or unloads a release.

        With `attempted=0` in the query, requests are not counted, which takes milliseconds for a thousand pointers.
        """
        answering = self.stats.answering()
        if self.predecessor is not None:
            for row in await self.predecessor.streams():
                answering.setdefault(row.replica, set()).add(row.release)
        for replica, release in self._proving:
            answering.setdefault(replica, set()).add(release)
        by_replica = {replica: tuple(sorted(releases)) for replica, releases in answering.items()}
        counted = {} if request.query.get("attempted") == "0" else self.stats.attempted()
        asked = [(*key, n) for key, n in counted.items()]
        return _json({"held": self.contents.index.held, "answering": by_replica, "attempted": asked})

    async def _wanted(self, request: web.Request) -> web.Response:
        """Answers `POST /control/cold` once other releases are to be loaded for requests that wait."""
        asked = ColdAsk(**json.loads(await request.read()))
        return _json(asdict(await self.cold.wanted(asked)))

    async def _get_trace(self, request: web.Request) -> web.Response:
        try:
            after = int(request.query.get("after", "0"))
        except ValueError:
            return _problem(
                400, "bad_query", "`after` is no number.", request.query["after"], "Give the last row's seq."
            )
        rows = self.trace.after(after, request.query.get("tenant"))
        return _json({"rows": [row.model_dump(mode="json") for row in rows]})

    async def _get_newest(self, request: web.Request) -> web.Response:
        return _answer(self.trace.newest(TraceAsk.model_validate({"ask": "", **request.query})))

    async def _get_samples(self, request: web.Request) -> web.Response:
        return _answer(await self.samples.read(SampleAsk.model_validate({"ask": "", **request.query})))

    # ---- two routers ---------------------------------------------------------------------------------------

    async def _hand_over(self, request: web.Request) -> web.Response:
        """Gives another router the right to admit. From here on this one takes calls under /control/drain/ alone."""
        asked = HandOver.model_validate_json(await request.read())
        if self.asks_user:
            raise Unacceptable(409, "not_handed_over", "The disk takes no socket.", "", "Repair the disk.")
        self.hands_over(asked)
        return _json({})

    async def _get_drain_stats(self, _: web.Request) -> web.Response:
        rows = tuple(row for row in self.stats.traffic() if row.streams)
        return _answer(RouterStats(boot=self.boot, traffic=rows))

    async def _cut(self, request: web.Request) -> web.Response:
        answers = []
        for key, stays in ByRoute.model_validate_json(await request.read()).routes:
            self.admission.cut(key, stays)
            answers.append((key, tuple(sorted(self.admission.answering(key)))))
        return _answer(ByRoute(routes=tuple(answers)))

    # ---- changing ------------------------------------------------------------------------------------------

    async def _table(self, request: web.Request) -> web.Response:
        update = TableUpdate.model_validate_json(await request.read())
        acks = self.switch.directive(update.cursor, update.entries)
        await self._cut_elsewhere()
        return _answer(acks)

    async def _engines(self, request: web.Request) -> web.Response:
        told = Engines.model_validate_json(await request.read())
        if 0 < told.at_ns < self._engines_at_ns:
            return await self._acked([])  # overtaken by a later call, and nobody waits for its answer any more
        self._engines_at_ns = told.at_ns
        return await self._acked(self.switch.engines(told.replicas))

    async def _silent(self, request: web.Request) -> web.Response:
        silent = SilentEngine.model_validate_json(await request.read())
        self.switch.silence(silent.replica, silent.seconds)
        return _json({})

    async def _pin(self, request: web.Request) -> web.Response:
        made, peer = Pin.model_validate_json(await request.read()), _peer(request)
        # The agent, which runs as this user, gives a router the pins that it kept; who made them is told already.
        again = made.uid is not None and peer == os.geteuid()
        return await self._acked(self.switch.pin(made if again else made.model_copy(update={"uid": peer})))

    async def _unpin(self, request: web.Request) -> web.Response:
        ask = Unpin.model_validate_json(await request.read())
        return await self._acked(self.switch.unpin((ask.tenant, ask.route)))

    async def _acked(self, acks: list[Ack]) -> web.Response:
        await self._cut_elsewhere()
        return _answer(Acks.model_construct(acks=tuple(acks)))

    async def _cut_elsewhere(self) -> None:
        """Has the router that drains cut what was cut here. Before that nothing is acknowledged, to nobody."""
        async with self._cutting:
            if self.predecessor is None or not (cuts := self.admission.cuts):
                return
            self.admission.cuts = {}
            answering, held = await self.predecessor.cut(cuts), self.contents
            for entry in (held.entries[key] for key in cuts):
                force = held.in_force.get(entry.key)
                flipped = force is not None and force.is_of(entry, entry.current)
                by = answering.get(entry.key, ())
                if flipped and not may_acknowledge(self.admission.stage, entry, [by]):
                    await self.predecessor.end(f"{'/'.join(entry.key)} is still answered by {', '.join(by)}")

    async def _hub(self, request: web.Request) -> web.Response:
        contact = HubLink.model_validate_json(await request.read())
        self.hub_silence.hub(contact.connected, contact.silent_s)
        return _json({})

    async def _proof(self, request: web.Request) -> web.Response:
        """The engine's answer, if the generation was in force before it was asked and still is afterwards."""
        ask = ProofRequest.model_validate_json(await request.read())
        where = (ask.tenant, ask.route), (ask.epoch, ask.generation), ask.replica
        found = self.admission.exact(*where)
        if found is None:
            return _not_current(ask)
        plan, target = found
        asked = (ask.replica, plan.release)
        url = target.replica.urls["/v1/completions" if "prompt" in ask.body else "/v1/chat/completions"]
        target.replica.take()
        self._proving.append(asked)  # unloaded meanwhile, it would be read again in the midst of a step, or be missing
        try:
            body = {**ask.body, "model": target.model}
            async with target.replica.session.post(url, json=body, allow_redirects=False) as answer:
                raw = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as lost:
            return _problem(502, "engine_unreachable", "The engine did not answer.", str(lost), "Ask again later.")
        finally:
            target.replica.give_back()
            self._proving.remove(asked)
        now = self.admission.exact(*where)
        if now is None or now[1].model != target.model:
            return _not_current(ask)
        kind = answer.headers.get("Content-Type", "application/json")
        return web.Response(status=answer.status, body=raw, headers={**target.headers, "Content-Type": kind})


def _json(document: dict[str, Any]) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), content_type="application/json")


def _answer(body: BaseModel) -> web.Response:
    return web.Response(body=body.model_dump_json().encode(), content_type="application/json")


def _with_streams(rows: list[Traffic], elsewhere: Iterable[Traffic]) -> list[Traffic]:
    """Counters with the answers that another router has under way: a release that answers there is in use."""
    found = {(row.tenant, row.route, row.generation, row.release, row.replica): row for row in rows}
    for row in elsewhere:
        key = (row.tenant, row.route, row.generation, row.release, row.replica)
        none = Traffic(tenant=key[0], route=key[1], generation=key[2], release=key[3], replica=key[4], attempted=0)
        known = found.get(key, none)
        found[key] = known.model_copy(update={"streams": known.streams + row.streams})
    return list(found.values())


def _not_current(ask: ProofRequest) -> web.Response:
    return _problem(
        409,
        "not_current",
        "This generation is not in force on this replica.",
        f"{ask.tenant}/{ask.route} generation {ask.generation} of epoch {ask.epoch} on {ask.replica}",
        "Read the state and prove what is in force.",
    )


def _problem(status: int, code: str, title: str, detail: str, fix: str) -> web.Response:
    return _refused(Problem(status=status, code=code, title=title, detail=detail, fix=fix))


def _refused(problem: Problem) -> web.Response:
    made = web.Response(status=problem.status, body=problem.model_dump_json().encode(), content_type=MEDIA_TYPE)
    if problem is HANDED_OVER:
        made.force_close()  # the connection is to this process
    return made
