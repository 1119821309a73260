"""The hub's end of `/v1/link`: hello, welcome, what is desired, and what the node says back.

A link keeps no queue of directives, only which entries its node has not been sent in their newest form: a
slow node gets fewer messages and the same outcome. Everything sent carries `prev_rev`, so that a node notices
what it missed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from loradeck.hub.access.auth import Caller, caller_of
from loradeck.hub.access.problems import problem_of, problem_response
from loradeck.hub.fleet.link_socket import link_socket, text_frame
from loradeck.rules.errors import Refused
from loradeck.rules.moves import recover
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.link import (
    HEARTBEAT_S,
    LINK_TTL_S,
    Ack,
    Heartbeat,
    Hello,
    JobEvent,
    JobLog,
    NodeOrder,
    Replica,
    Report,
    Resync,
    TableState,
    TraceRows,
    UpMessage,
    Welcome,
    up_adapter,
)

if TYPE_CHECKING:
    from loradeck.hub.fleet.node_tables import Table
    from loradeck.hub.fleet.nodes import Node
    from loradeck.hub.hub import Hub

log = logging.getLogger("loradeck.hub.fleet.link")

PATH = "/v1/link"


CLOSE_S = 2.0
"""How long a close waits for a node that does not read."""

BAD_MESSAGE, WRONG_NODE, REPLACED, SILENT, REVOKED = 4400, 4403, 4409, 4408, 4401
"""Close codes; the reason is a problem code."""


PARTS = 20
"""Parts into which the links are divided for their heartbeats."""

_parts = itertools.cycle(range(PARTS))


class Outbox:
    """The links that owe their nodes something. They are written to once, at the end of the event loop's turn."""

    def __init__(self) -> None:
        self._links: dict[Link, None] = {}

    def put(self, link: Link) -> None:
        """Write to a link soon."""
        if not self._links:
            asyncio.get_running_loop().call_soon(self._flush)
        self._links[link] = None

    def _flush(self) -> None:
        links, self._links = self._links, {}
        for link in links:
            try:
                link.flush()
            except Exception:
                log.exception("link not written to node=%s", link.caller.node)


class Link:
    """One node's connection. `put*` note what is to be sent; the outbox has it sent."""

    __slots__ = (
        *("caller", "node", "part", "steered", "full"),
        *("_hub", "_socket", "_wire", "_dirty", "_unpin", "_messages", "_bookmark", "_sent_rev", "_welcome"),
        *("_closing", "_reader", "_refused", "_table"),
    )

    def __init__(self, hub: Hub, socket: WebSocket, caller: Caller) -> None:
        self.caller = caller
        self.node: Node | None = None
        self.part = next(_parts)
        self.steered = False
        self.full = False
        self._hub = hub
        self._socket = socket
        self._wire = link_socket(socket)
        # Most links owe nothing most of the time, and the empty frozenset is one object for all of them.
        self._dirty: frozenset[PointerKey] = frozenset()
        self._unpin: frozenset[PointerKey] = frozenset()
        self._messages: list[str] = []
        self._bookmark = False
        self._sent_rev = 0
        self._welcome: str | None = None
        self._closing: asyncio.Future[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._refused: Refused | None = None
        self._table: tuple[int, Table] | None = None

    # ---- what is to be sent --------------------------------------------------------------------------------

    @property
    def table(self) -> Table:
        """The entries this node is placed for, as the placements are now."""
        assert self.node is not None
        version = self._hub.steer.version
        if self._table is None or self._table[0] != version:
            self._table = (version, self._hub.steer.table(self.node.labels))
        return self._table[1]

    def put(self, keys: Iterable[PointerKey]) -> None:
        """Entries have changed."""
        self._dirty = self._dirty.union(keys)
        self._hub.outbox.put(self)

    def put_full(self) -> None:
        """The node needs the whole table."""
        self.full = True
        self._hub.outbox.put(self)

    def put_unpin(self, key: PointerKey) -> None:
        self._unpin = self._unpin.union((key,))
        self._hub.outbox.put(self)

    def put_message(self, message: BaseModel) -> None:
        self._messages.append(message.model_dump_json())
        self._hub.outbox.put(self)

    def put_bookmark(self) -> None:
        self._bookmark = True
        self._hub.outbox.put(self)

    def close(self, code: int, reason: str) -> None:
        """End the link; after `CLOSE_S` also where the node no longer reads."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(code, reason))

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close(code, reason)
        except (TimeoutError, WebSocketDisconnect, RuntimeError):
            pass  # it does not read, or has closed it itself
        if self._reader is not None:
            self._reader.cancel()

    @property
    def closing(self) -> bool:
        """Whether this end has begun to close the link."""
        return self._closing is not None

    async def closed(self) -> None:
        """Wait until a close that was begun is over."""
        if self._closing is not None:
            await asyncio.wait((self._closing,))

    def replaced(self) -> None:
        """The node has opened another link: this one is of no use to anybody."""
        self.close(REPLACED, "replaced")

    def revoked(self) -> None:
        """The token it was opened with was withdrawn."""
        self.close(REVOKED, "unauthenticated")

    async def serve(self) -> None:
        """Read until the link ends. Raises as `read`; CancelledError where it was closed from this end."""
        self._reader = asyncio.ensure_future(self.read())
        self._wire.on_writable = self._on_writable
        try:
            await asyncio.wait((self._reader,))
            self._reader.result()
        finally:
            self._reader.cancel()
            self._wire.release()
            if self._closing is not None:
                await asyncio.wait((self._closing,))

    # ---- sending -------------------------------------------------------------------------------------------

    def _on_writable(self) -> None:
        self._hub.outbox.put(self)

    def flush(self) -> None:
        """Write what is owed, as far as the node reads. What a node waits for goes first."""
        wire = self._wire
        if not wire.writable.is_set() or self._closing is not None:
            return
        if self._welcome is not None and wire.write_frame(text_frame(self._welcome)):
            self._welcome = None
        if self.steered and (self.full or self._dirty or self._unpin) and wire.writable.is_set():
            wire.write_frame(self._desired())
        while self._messages and wire.write_frame(text_frame(self._messages[0])):
            del self._messages[0]
        if self._bookmark and wire.writable.is_set():
            self._bookmark = False
            if self.steered and self._sent_rev != self._hub.ledger.rev:
                wire.write_frame(self._desired())  # nothing of it concerns this node, but its rev goes on
            wire.write_frame(self._hub.bookmark())

    def _desired(self) -> bytes:
        ledger, keys = self._hub.ledger, None if self.full else self._dirty
        unpin = tuple(sorted(self._unpin))
        frame = self._hub.steer.desired(
            self.table,
            epoch=ledger.epoch,
            rev=ledger.rev,
            hash_=ledger.hash,
            prev_rev=self._sent_rev,
            keys=keys,
            unpin=unpin,
        )
        self.full, self._sent_rev = False, ledger.rev
        self._dirty = self._unpin = frozenset()
        return frame

    # ---- receiving -----------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Takes in what the node says until it leaves.

        Raises: WebSocketDisconnect; Refused `wrong_node` or `invalid_request`, which end the link.
        """
        async with asyncio.timeout(LINK_TTL_S):
            hello = await self._next()
        if not isinstance(hello, Hello):
            raise Refused("invalid_request", "the first message of a link is a hello", detail=hello.type)
        if hello.node != self.caller.node:
            raise Refused(
                "wrong_node",
                f"this token belongs to the node {self.caller.node}",
                detail=f"the hello says {hello.node}",
                fix="give each node a token of its own",
            )
        self._own(hello.replicas, hello.node)
        await self._greet(hello)
        del hello  # it would be held as long as the link
        self._wire.receiver = self._received
        while True:  # what came before that, then the end
            self._take(await self._next())

    def _received(self, data: bytes) -> None:
        """Take a message; one that is refused ends the link."""
        if self._refused is not None:
            return
        try:
            self._take(_parsed(data))
        except Refused as refused:
            self._refused = refused
        except Exception:
            log.exception("link failed node=%s", self.caller.node)
            self._refused = Refused("internal_error", "the hub could not take a message")
        if self._refused is not None:
            self._wire.queue.put_nowait({"type": "websocket.disconnect", "code": BAD_MESSAGE})

    async def _next(self) -> UpMessage:
        message = await self._socket.receive()
        if self._refused is not None:
            raise self._refused
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        return _parsed(message.get("text") or message.get("bytes") or b"")

    def _own(self, replicas: Iterable[Replica], node: str) -> None:
        for replica in replicas:
            if replica.replica != node and not replica.replica.startswith(f"{node}."):
                raise Refused(
                    "wrong_node",
                    f"the replica {replica.replica} does not belong to the node {node}",
                    fix=f"a replica is named '{node}' or '{node}.<engine>'",
                )

    async def _greet(self, hello: Hello) -> None:
        hub = self._hub
        has_hash = await hub.knows(hello.rev, hello.hash)
        behind = recover.behind(epoch=hello.epoch, rev=hello.rev, hub_epoch=hub.ledger.epoch, has_hash=has_hash)
        node = self.node = hub.fleet_hello(hello, self)
        refuse = "log_behind" if behind else None
        node.behind = refuse
        ledger = hub.ledger
        welcome = Welcome(epoch=ledger.epoch, rev=ledger.rev, hash=ledger.hash, refuse=refuse)
        self._welcome = welcome.model_dump_json()
        self._sent_rev = min(hello.rev, ledger.rev)
        if refuse:
            hub.log_is_behind(node, hello)
        else:
            hub.settling.heard(node.name)
            # The whole table, whatever the node holds already: its answer tells how far every entry is.
            self.steer()
            for pin in hello.pins:
                if hub.pins.is_over(node.name, pin):
                    self.put_unpin((pin.tenant, pin.route))
        hub.pins.heard(node)
        self.put_message(NodeOrder(cordoned=node.cordoned, drained=node.drained))
        hub.queue.hello(self, hello)

    def steer(self) -> None:
        """From here on the node is told what is desired, beginning with all of it."""
        self.steered = True
        self.put_full()

    def _take(self, message: UpMessage) -> None:
        hub, node = self._hub, self.node
        assert node is not None
        hub.fleet.heard(node)
        match message:
            case Ack():
                if hub.fleet.node_of(message.replica) != node.name:
                    raise Refused("wrong_node", f"the replica {message.replica} does not belong to {node.name}")
                hub.acknowledged(message)
            case Report():
                self._own(message.replicas, node.name)
                hub.reported(node, message)
            case Resync():
                log.info("resync node=%s why=%s", node.name, message.why[:200])
                if self.steered:
                    self.put_full()
            case JobEvent():
                hub.queue.event(node, message)
            case JobLog():
                hub.queue.printed(node, message)
            case TraceRows():
                hub.traces.answered(node, message)
            case TableState():
                hub.recovery.table(node, message)
            case Heartbeat():
                pass
            case Hello():
                raise Refused("invalid_request", "a link has one hello")


async def link(socket: WebSocket, hub: Hub) -> None:
    """A connection to `/v1/link`, from its handshake to its end."""
    try:
        caller = caller_of(socket, hub.tokens)
        if caller.role is not Role.AGENT:
            raise Refused(
                "forbidden", "only an agent's token opens a link", fix="loradeck token create --role agent --node NAME"
            )
    except Refused as refused:
        await socket.send_denial_response(problem_response(problem_of(refused)))
        return
    await socket.accept()
    socket.scope["headers"].clear()  # nobody reads them again, and they would be held as long as the link
    await serve_link(Link(hub, socket, caller), hub)


async def serve_link(link: Link, hub: Hub) -> None:
    """Serve a link until either end leaves; the fleet learns of both."""
    name = link.caller.node
    hub.links.add(link)
    hub.heap.changed()
    try:
        await link.serve()
    except WebSocketDisconnect:
        pass
    except asyncio.CancelledError:
        if not link.closing:
            raise
    except Refused as error:
        log.warning("link refused node=%s code=%s %s %s", name, error.code, error.title, error.detail)
        link.close(WRONG_NODE if error.code == "wrong_node" else BAD_MESSAGE, error.code)
        await link.closed()
    except Exception:
        log.exception("link failed node=%s", name)
    finally:
        hub.links.discard(link)
        hub.heap.changed()
        if link.node is not None:
            hub.unlinked(link.node, link)


def _parsed(data: str | bytes) -> UpMessage:
    try:
        return up_adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(
            "invalid_request", "a message that does not fit its schema", detail=f"{where}: {first['msg']}"
        ) from None


class Beats:
    """Which parts of the links are due. However late it is asked, every part is due once in `HEARTBEAT_S`."""

    def __init__(self, now: float) -> None:
        self._done = self._step(now)

    def due(self, now: float) -> frozenset[int]:
        """The parts whose time came since the last call; `now` is monotonic seconds."""
        step = self._step(now)
        first = max(self._done, step - PARTS) + 1
        self._done = step
        return frozenset(n % PARTS for n in range(first, step + 1))

    def _step(self, now: float) -> int:
        return int(now / (HEARTBEAT_S / PARTS))


def beat(hub: Hub, parts: Collection[int] = range(PARTS)) -> None:
    """Closes links that are silent for longer than the TTL, and gives the others a bookmark.

    In parts, because thousands of links that are written to at once keep moves waiting.
    """
    now = hub.fleet.clock()
    for link in list(hub.links):
        if link.node is None or link.part not in parts:
            continue
        if link.node.heard is not None and now - link.node.heard > LINK_TTL_S:
            link.close(SILENT, "silent")
        else:
            link.put_bookmark()
