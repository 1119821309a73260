"""The control socket: what the agent asks of its router. Reachable by this user alone."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import aiohttp
from aiohttp import web
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from loradeck.schemas.ids import Digest, Name, Wire
from loradeck.schemas.link import Ack, TraceAsk, TraceRows
from loradeck.schemas.problem import MEDIA_TYPE, Problem
from loradeck.schemas.table import Pin, TableEntry
from loradeck_agent.router.admission import Admission
from loradeck_agent.router.counters import Stats
from loradeck_agent.router.hub_contact import Contact
from loradeck_agent.router.switch import Switch, Unacceptable
from loradeck_agent.router.table import Contents, EngineAt, TableFault
from loradeck_agent.router.trace import Trace

_acks: TypeAdapter[list[Ack]] = TypeAdapter(list[Ack])


class Directive(Wire):
    """`POST /control/table`."""

    epoch: int
    rev: int
    hash: Digest
    entries: tuple[TableEntry, ...]
    full: bool = False


class Engines(Wire):
    """`POST /control/engines`: always all of them."""

    replicas: tuple[EngineAt, ...]


class Unpin(Wire):
    tenant: Name
    route: Name


class HubWord(Wire):
    connected: bool
    silent_s: float = Field(0.0, ge=0, description="with connected false: how long the hub had not been heard from")


class Proof(Wire):
    """`POST /control/proof`: a canary, through the look-up of a caller, under exactly this generation."""

    tenant: Name
    route: Name
    epoch: int
    generation: int
    replica: Name
    body: dict[str, Any]


Body = TypeVar("Body", bound=BaseModel)


class Control:
    def __init__(
        self,
        boot: str,
        held: Contents,
        switch: Switch,
        admission: Admission,
        contact: Contact,
        stats: Stats,
        trace: Trace,
    ) -> None:
        self._boot = boot
        self._held = held
        self._switch = switch
        self._admission = admission
        self._contact = contact
        self._stats = stats
        self._trace = trace

    def app(self) -> web.Application:
        app = web.Application(client_max_size=256 * 2**20, middlewares=[self._answer_problems])
        app.router.add_get("/control/state", self._state)
        app.router.add_get("/control/stats", self._get_stats)
        app.router.add_get("/control/trace", self._get_trace)
        app.router.add_get("/control/trace/newest", self._get_newest)
        app.router.add_post("/control/table", self._table)
        app.router.add_post("/control/engines", self._engines)
        app.router.add_post("/control/pin", self._pin)
        app.router.add_post("/control/unpin", self._unpin)
        app.router.add_post("/control/hub", self._hub)
        app.router.add_post("/control/proof", self._proof)
        return app

    @web.middleware
    async def _answer_problems(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._contact.agent_called()
        try:
            return await handler(request)
        except Unacceptable as no:
            return _answer(no.as_problem(no.status))
        except TableFault as fault:
            return _answer(fault.as_problem(507))
        except ValidationError as bad:
            return _problem(400, "bad_body", "The body does not fit this call.", str(bad), "See docs/architecture.md.")

    # ---- reading -------------------------------------------------------------------------------------------

    async def _state(self, request: web.Request) -> web.Response:
        held = self._held
        return _json(
            {
                "pid": os.getpid(),
                "boot": self._boot,
                "epoch": held.epoch,
                "rev": held.rev,
                "hash": held.hash,
                "entries": _dump(list(held.entries.values())),
                "pins": _dump(list(held.pins.values())),
                "in_force": _dump(list(held.in_force.values())),
                "ready": {at.replica: list(at.ready) for at in held.engines},
            }
        )

    async def _get_stats(self, request: web.Request) -> web.Response:
        return _json({"boot": self._boot, "traffic": _dump(self._stats.traffic())})

    async def _get_trace(self, request: web.Request) -> web.Response:
        try:
            after = int(request.query.get("after", "0"))
        except ValueError:
            return _problem(
                400, "bad_query", "`after` is no number.", request.query["after"], "Give the last row's seq."
            )
        return _json({"rows": _dump(self._trace.after(after, request.query.get("tenant")))})

    async def _get_newest(self, request: web.Request) -> web.Response:
        asked = TraceAsk.model_validate({"ask": "", **request.query})
        rows, more = self._trace.newest(
            asked.tenant, asked.route, release=asked.release, before=asked.before, last=asked.last
        )
        trace = self._trace
        found = TraceRows(ask="", rows=tuple(rows), more=more, turned_over=trace.turned_over, since_ms=trace.since_ms)
        return web.Response(text=found.model_dump_json(), content_type="application/json")

    # ---- changing ------------------------------------------------------------------------------------------

    async def _table(self, request: web.Request) -> web.Response:
        order = Directive.model_validate_json(await request.read())
        return _acked(self._switch.directive(order.epoch, order.rev, order.hash, order.entries))

    async def _engines(self, request: web.Request) -> web.Response:
        return _acked(self._switch.engines(Engines.model_validate_json(await request.read()).replicas))

    async def _pin(self, request: web.Request) -> web.Response:
        return _acked(self._switch.pin(Pin.model_validate_json(await request.read())))

    async def _unpin(self, request: web.Request) -> web.Response:
        ask = Unpin.model_validate_json(await request.read())
        return _acked(self._switch.unpin((ask.tenant, ask.route)))

    async def _hub(self, request: web.Request) -> web.Response:
        word = HubWord.model_validate_json(await request.read())
        self._contact.hub(word.connected, word.silent_s)
        return _json({})

    async def _proof(self, request: web.Request) -> web.Response:
        """The engine's answer, if the generation was in force before it was asked and still is afterwards."""
        ask = Proof.model_validate_json(await request.read())
        where = (ask.tenant, ask.route), (ask.epoch, ask.generation), ask.replica
        found = self._admission.exact(*where)
        if found is None:
            return _not_current(ask)
        _, target = found
        url = target.replica.urls["/v1/completions" if "prompt" in ask.body else "/v1/chat/completions"]
        target.replica.take()
        try:
            body = {**ask.body, "model": target.model}
            async with target.replica.session.post(url, json=body, allow_redirects=False) as answer:
                raw = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as lost:
            return _problem(502, "engine_unreachable", "The engine did not answer.", str(lost), "Ask again later.")
        finally:
            target.replica.give_back()
        now = self._admission.exact(*where)
        if now is None or now[1].model != target.model:
            return _not_current(ask)
        kind = answer.headers.get("Content-Type", "application/json")
        return web.Response(status=answer.status, body=raw, headers={**target.headers, "Content-Type": kind})


def _dump(models: Sequence[BaseModel]) -> list[Any]:
    return [model.model_dump(mode="json") for model in models]


def _json(document: dict[str, Any]) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), content_type="application/json")


def _acked(acks: list[Ack]) -> web.Response:
    return web.Response(body=b'{"acks":' + _acks.dump_json(acks) + b"}", content_type="application/json")


def _not_current(ask: Proof) -> web.Response:
    return _problem(
        409,
        "not_current",
        "This generation is not in force on this replica.",
        f"{ask.tenant}/{ask.route} generation {ask.generation} of epoch {ask.epoch} on {ask.replica}",
        "Read the state and prove what is in force.",
    )


def _problem(status: int, code: str, title: str, detail: str, fix: str) -> web.Response:
    return _answer(Problem(status=status, code=code, title=title, detail=detail, fix=fix))


def _answer(problem: Problem) -> web.Response:
    return web.Response(status=problem.status, body=problem.model_dump_json().encode(), content_type=MEDIA_TYPE)
