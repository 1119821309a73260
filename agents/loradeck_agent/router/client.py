"""The router's control socket, typed. Only the agent and its command line speak on it."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError

from loradeck.schemas.fault import first_wrong
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack, SampleAsk, SampleRows, TraceAsk, TraceRows
from loradeck.schemas.protocol import PROTOCOL
from loradeck.schemas.table import Pin, RouteResidency
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.http_client import Endpoint, HttpClient, Reply, problem_of
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.router.wire import (
    Acks,
    ColdAsk,
    EngineAt,
    Engines,
    HubLink,
    ProofRequest,
    RouterState,
    RouterStats,
    SilentEngine,
    TableUpdate,
    Unpin,
    Use,
    WantedLoads,
)

Model = TypeVar("Model", bound=BaseModel)
Built = TypeVar("Built")

CALL_S = 10.0
PROOF_S = 120.0

_HANDED_OVER_S = 0.01
"""Between two attempts, while one router hands over to another."""


class RouterControl:
    """Calls to the router behind a control socket. Raises `Unreachable`, or AgentError with its problem's code."""

    def __init__(self, folder: StateFolder) -> None:
        self._http = HttpClient(Endpoint(unix=folder.router_socket, lock=folder.router_lock))

    def close(self) -> None:
        """Closes the connections; the next call opens one."""
        self._http.close()

    async def state(self) -> RouterState:
        """The router's process, and what its table holds."""
        return _parsed(RouterState, await self._ok("GET", f"/control/state?protocol={PROTOCOL}"))

    async def table(self, update: TableUpdate) -> Acks:
        """Hands entries over. The answer comes when they are in force: it *is* the acknowledgement."""
        return await self._changed("/control/table", update)

    async def engines(self, engines: tuple[EngineAt, ...]) -> tuple[Ack, ...]:
        """Replaces the router's engines. Returns the acknowledgements that differ from the last ones."""
        return (await self._changed("/control/engines", Engines(replicas=engines, at_ns=time.monotonic_ns()))).acks

    async def silent(self, replica: str, seconds: float) -> None:
        """Keeps requests away from an engine that does not answer; 0 seconds: it answers.

        A router of an earlier version goes on to ask it.
        """
        body = SilentEngine(replica=replica, seconds=seconds).model_dump_json().encode()
        reply = await self._call("POST", "/control/silent", body, CALL_S)
        if reply.status != 404:
            _checked(reply)

    async def pin(self, pin: Pin) -> tuple[Ack, ...]:
        """Puts a pin in force. The answer comes when it is durable."""
        return (await self._changed("/control/pin", pin)).acks

    async def unpin(self, key: PointerKey) -> tuple[Ack, ...]:
        """Ends a pointer's pin. The answer comes when that is durable; without a pin nothing changes."""
        return (await self._changed("/control/unpin", Unpin(tenant=key[0], route=key[1]))).acks

    async def hub(self, *, connected: bool, silent_s: float = 0.0) -> None:
        """Starts or stops the router's clock of `refuse_after_s`. `silent_s`: seconds since the hub's last message."""
        contact = HubLink(connected=connected, silent_s=silent_s)
        await self._ok("POST", "/control/hub", contact.model_dump_json().encode())

    async def stats(self, *, timeout: float = CALL_S) -> RouterStats:
        """Counters of the requests that the router admitted, within `timeout` seconds."""
        return _parsed(RouterStats, await self._ok("GET", "/control/stats", timeout=timeout))

    async def use(self, *, counts: bool = True, timeout: float = CALL_S) -> Use:
        """Asks what engines hold for somebody, and with `counts` how much each pointer is asked for.

        Raises: AgentError: `unexpected_answer`.
        """
        reply = await self._call("GET", "/control/use" if counts else "/control/use?attempted=0", None, timeout)
        return await self._use_of_earlier() if reply.status == 404 else _built(Use, reply)

    async def _use_of_earlier(self) -> Use:
        """Gathers the same from a router that an earlier version started."""
        stats, state = await self.stats(), await self.state()
        on_demand = {entry.key for entry in state.entries if entry.residency is RouteResidency.ON_DEMAND}
        forces = (force for force in state.in_force if force.pinned or force.key not in on_demand)
        answering: dict[str, tuple[str, ...]] = {}
        for row in stats.traffic:
            if row.streams:
                answering[row.replica] = (*answering.get(row.replica, ()), row.release)
        return Use(
            held=tuple(force.release.id for force in forces if force.release is not None),
            answering=answering,
            attempted=tuple((row.tenant, row.route, row.counts.attempted) for row in stats.traffic),
        )

    async def wanted(self, ask: ColdAsk) -> WantedLoads | None:
        """The releases that requests wait for, once they are others. None: the router is an earlier version's, where
        none waits.
        """
        reply = await self._call("POST", "/control/cold", json.dumps(asdict(ask)).encode(), CALL_S)
        return None if reply.status == 404 else _built(WantedLoads, reply)

    async def trace(self, query: str) -> dict[str, Any]:
        """Rows of the trace as JSON: `{"rows": [...]}`. `query`: `after` and `tenant`, encoded."""
        document: dict[str, Any] = (await self._ok("GET", f"/control/trace?{query}")).json()
        return document

    async def newest(self, ask: TraceAsk) -> TraceRows:
        """Reads one pointer's newest rows of the trace, as the hub asks for them."""
        return await self._asked(TraceRows, "/control/trace/newest", ask)

    async def samples(self, ask: SampleAsk) -> SampleRows:
        """Reads one pointer's newest samples, as the hub asks for them."""
        return await self._asked(SampleRows, "/control/samples", ask)

    async def _asked(self, answer: type[Model], path: str, ask: TraceAsk | SampleAsk) -> Model:
        query = urlencode(ask.model_dump(exclude={"type", "ask"}, exclude_none=True))
        return _parsed(answer, await self._ok("GET", f"{path}?{query}")).model_copy(update={"ask": ask.ask})

    async def proof(self, request: ProofRequest) -> Reply:
        """Asks one canary through the router. Any status: 409 `not_current` is an answer too."""
        return await self._call("POST", "/control/proof", request.model_dump_json().encode(), PROOF_S)

    async def _changed(self, path: str, body: BaseModel) -> Acks:
        return _parsed(Acks, await self._ok("POST", path, body.model_dump_json().encode()))

    async def _ok(self, method: str, path: str, body: bytes | None = None, *, timeout: float = CALL_S) -> Reply:
        return _checked(await self._call(method, path, body, timeout))

    async def _call(self, method: str, path: str, body: bytes | None, timeout: float) -> Reply:
        """Makes one call. While a router hands over, the next one is waited for: it takes the call."""
        until = time.monotonic() + timeout
        while True:
            reply = await self._http.call(method, path, body, timeout=timeout)
            if reply.status != 503 or problem_of(reply, "the router").code != "handed_over" or time.monotonic() > until:
                return reply
            self._http.close()
            await asyncio.sleep(_HANDED_OVER_S)


def _checked(reply: Reply) -> Reply:
    if reply.status == 200:
        return reply
    raise problem_of(reply, "the router")


def _built(kind: Callable[..., Built], reply: Reply) -> Built:
    """Builds a plain class from the fields of an answer.

    They may be others: a router of another version runs on while its agent is replaced.
    """
    checked = _checked(reply)
    try:
        return kind(**checked.json())
    except (ValueError, TypeError) as error:
        raise AgentError("unexpected_answer", "the router's answer cannot be read", str(error)) from error


def _parsed(model: type[Model], reply: Reply) -> Model:
    try:
        return model.model_validate_json(reply.body)
    except ValidationError as error:
        raise AgentError("unexpected_answer", "the router's answer cannot be read", first_wrong(error)) from error
