"""The router's control socket, typed. Only the agent and its command line speak on it."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from loradeck.schemas.ids import Wire
from loradeck.schemas.link import Ack, TraceAsk, TraceRows, Traffic
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.http_client import Endpoint, HttpClient, Reply
from loradeck_agent.host.state_folder import StateFolder

Model = TypeVar("Model", bound=BaseModel)

CALL_S = 10.0
PROOF_S = 120.0


class InForce(Wire):
    """The release a router admits a pointer's requests to: a gap may still hold the one it is leaving."""

    tenant: str
    route: str
    release: ReleaseRef | None = None


class RouterState(Wire):
    """What a router holds durably, and what it was told of its engines."""

    pid: int
    boot: str
    epoch: int
    rev: int
    hash: str
    entries: tuple[TableEntry, ...]
    pins: tuple[Pin, ...] = ()
    ready: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    in_force: tuple[InForce, ...] = ()


class EngineSlot(Wire):
    """One engine as the router is told of it. `ready`: releases it may be asked for. `key`: its key's file."""

    replica: str
    socket: str
    url: str = ""
    key: str = ""
    base: str
    base_name: str
    ready: tuple[str, ...]


class Acks(Wire):
    acks: tuple[Ack, ...] = ()


class Stats(Wire):
    boot: str = ""
    traffic: tuple[Traffic, ...] = ()


class TableUpdate(Wire):
    """Body of `POST /control/table`."""

    epoch: int
    rev: int
    hash: str
    entries: tuple[TableEntry, ...]
    full: bool = False


_engines = TypeAdapter(dict[str, tuple[EngineSlot, ...]])


class RouterControl:
    """Calls to the router behind a control socket. Raises `Unreachable`, or AgentError with its problem's code."""

    def __init__(self, folder: StateFolder) -> None:
        self._http = HttpClient(Endpoint(unix=folder.router_socket))

    def close(self) -> None:
        self._http.close()

    async def state(self) -> RouterState:
        return _parsed(RouterState, await self._ok("GET", "/control/state"))

    async def table(self, update: TableUpdate) -> tuple[Ack, ...]:
        """Hands entries over. The answer comes when they are durable and in force: it *is* the acknowledgement."""
        return self._acks(await self._ok("POST", "/control/table", update.model_dump_json().encode()))

    async def engines(self, slots: tuple[EngineSlot, ...]) -> tuple[Ack, ...]:
        return self._acks(await self._ok("POST", "/control/engines", _engines.dump_json({"replicas": slots})))

    async def pin(self, pin: Pin) -> tuple[Ack, ...]:
        return self._acks(await self._ok("POST", "/control/pin", pin.model_dump_json().encode()))

    async def unpin(self, tenant: str, route: str) -> tuple[Ack, ...]:
        reply = await self._http.post("/control/unpin", {"tenant": tenant, "route": route}, timeout=CALL_S)
        return self._acks(_checked(reply))

    async def hub(self, *, connected: bool, silent_s: float = 0.0) -> None:
        body = {"connected": connected, "silent_s": silent_s}
        _checked(await self._http.post("/control/hub", body, timeout=CALL_S))

    async def stats(self) -> Stats:
        return _parsed(Stats, await self._ok("GET", "/control/stats"))

    async def trace(self, query: str) -> dict[str, Any]:
        document: dict[str, Any] = (await self._ok("GET", f"/control/trace?{query}")).json()
        return document

    async def newest(self, ask: TraceAsk) -> TraceRows:
        """One pointer's newest rows of the trace, as the hub asks for them."""
        query = urlencode(ask.model_dump(exclude={"type", "ask"}, exclude_none=True))
        found = _parsed(TraceRows, await self._ok("GET", f"/control/trace/newest?{query}"))
        return found.model_copy(update={"ask": ask.ask})

    async def proof(self, body: dict[str, Any]) -> Reply:
        """One canary through the router. Any status: 409 `not_current` is an answer too."""
        return await self._http.post("/control/proof", body, timeout=PROOF_S)

    async def _ok(self, method: str, path: str, body: bytes | None = None) -> Reply:
        return _checked(await self._http.call(method, path, body, timeout=CALL_S))

    @staticmethod
    def _acks(reply: Reply) -> tuple[Ack, ...]:
        return _parsed(Acks, reply).acks


def _checked(reply: Reply) -> Reply:
    if reply.status == 200:
        return reply
    raise problem_of(reply, "the router")


def _parsed(model: type[Model], reply: Reply) -> Model:
    try:
        return model.model_validate_json(reply.body)
    except ValidationError as error:
        first = error.errors()[0]
        detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise AgentError("unexpected_answer", "the router's answer cannot be read", detail) from error


def problem_of(reply: Reply, who: str) -> AgentError:
    """The error a non-200 answer stands for: its problem document's code where it has one."""
    try:
        document = reply.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("code"), str):
        return AgentError("unexpected_answer", f"{who} answered {reply.status}", reply.text[:300])
    return AgentError(
        document["code"],
        str(document.get("title", f"{who} answered {reply.status}")),
        str(document.get("detail", "")),
        str(document.get("fix", "")),
    )
