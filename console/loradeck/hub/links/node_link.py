"""The hub's end of one node's connection to `/v1/link`: hello, welcome, table entries, and the node's messages.

A link keeps no queue of directives, only which entries its node has not been sent in their newest form: a slow node
gets fewer messages and the same outcome. Every directive carries `prev_rev`, so that a node notices a missing one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from loradeck.hub.access.auth import Caller
from loradeck.hub.fleet.link_socket import link_socket, text_frame
from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables, Table
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.links.challenges import Challenges
from loradeck.hub.links.gateways import Gateways
from loradeck.hub.links.node_events import Greeting
from loradeck.hub.log.log import Log
from loradeck.rules.errors import Refused
from loradeck.rules.serving.link_bounds import LARGE, MESSAGE_BYTES, Allowance, has_too_many_rows, may_be_long
from loradeck.schemas.fail_fast import fail_fast
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import RECIPES
from loradeck.schemas.link import (
    COUNTERS,
    Ack,
    Bookmark,
    ChallengeAnswer,
    Heartbeat,
    Hello,
    JobMessage,
    Order,
    Replica,
    Report,
    Resync,
    TableAsk,
    TableState,
    UpMessage,
    Welcome,
    belongs,
    up_adapter,
)
from loradeck.schemas.membership import GATEWAY_NAME
from loradeck.schemas.protocol import PROTOCOL, agreed
from loradeck.schemas.replica_state import LINK_TTL_S

log = logging.getLogger("loradeck.hub.links.node_link")

CLOSE_S = 2.0
"""How long a close waits for a node that does not read, seconds."""

BAD_MESSAGE, WRONG_NODE, REPLACED, SILENT, REVOKED, FAILED, SUCCEEDED = 4400, 4403, 4409, 4408, 4401, 4500, 4503
RELABELLED, LEFT_ALONE = 4411, 4412
"""Close codes; the reason is a problem code."""

PARTS = 20
"""Parts into which the links are divided for their heartbeats."""

_parts = itertools.cycle(range(PARTS))

Handler = Callable[[Node, Any], None]
"""Called with a node and its message, which is of the type that the handler was registered for."""


class LinkOutbox:
    """The links that owe their nodes something: each is written to once, when the loop's turn ends or before."""

    def __init__(self) -> None:
        self._links: dict[Link, None] = {}

    def put(self, link: Link) -> None:
        """Writes to a link soon."""
        if not self._links:
            asyncio.get_running_loop().call_soon(self.flush)
        self._links[link] = None

    def flush(self) -> None:
        """Writes to the links now."""
        links, self._links = self._links, {}
        for link in links:
            try:
                link.flush()
            except Exception:
                log.exception("link not written to node=%s", link.caller.node)
                link.close(FAILED, "internal_error")  # its node asks for everything when it links again


@dataclass(eq=False, kw_only=True)
class Uplink:
    """The parts of the hub that a link works with: one object for all links, of which there are thousands.

    `handlers`: message type -> who handles it. The link itself handles the types that are missing.
    """

    log: Log
    tables: NodeTables
    withdrawals: Withdrawals
    fleet: Fleet
    greeting: Greeting
    challenges: Challenges
    gateways: Gateways
    handlers: Mapping[type[BaseModel], Handler]
    outbox: LinkOutbox
    _bookmark: tuple[tuple[int, int], bytes] = field(default=((-1, -1), b""), init=False)

    def bookmark(self) -> bytes:
        """The frame of the heartbeat that nodes are sent."""
        state = self.log.state
        if self._bookmark[0] != (state.epoch, state.rev):
            text = Bookmark(
                epoch=state.epoch, rev=state.rev, hash=state.hash, position=self.log.position()
            ).model_dump_json()
            self._bookmark = ((state.epoch, state.rev), text_frame(text))
        return self._bookmark[1]


class Link:
    """One node's connection. The `put` methods note what is to be sent; the outbox has it sent."""

    __slots__ = (
        "_allowance",
        "_asked",
        "_bookmark",
        "_closing",
        "_dirty",
        "_hub",
        "_messages",
        "_part",
        "_reader",
        "_refused",
        "_sent_rev",
        "_serving",
        "_socket",
        "_table",
        "_unpin",
        "_welcome",
        "_wire",
        "caller",
        "counts",
        "full",
        "node",
        "part",
        "signed",
        "steered",
    )

    def __init__(self, hub: Uplink, socket: WebSocket, caller: Caller) -> None:
        self.caller = caller
        self.counts = True
        self.node: Node | None = None
        self.part = next(_parts)
        self.steered = False
        self.full = False
        self.signed = True
        """Whether the node reads entries as signed texts; one of version 1 of the wire does not."""
        self._hub = hub
        self._allowance = Allowance(hub.fleet.clock())
        self._asked: frozenset[str] = frozenset()
        self._part: Report | None = None
        """The parts of a report that have come, as one."""
        self._socket = socket
        self._wire = link_socket(socket)
        # Most links owe nothing most of the time: the empty set is one object for all of them.
        self._dirty: frozenset[PointerKey] = frozenset()
        self._unpin: frozenset[PointerKey] = frozenset()
        self._messages: list[str] = []
        self._bookmark = False
        self._serving = False
        self._sent_rev = 0
        self._welcome: str | None = None
        self._closing: asyncio.Future[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._refused: Refused | None = None
        self._table: tuple[int, Table] | None = None

    # ---- what is to be sent --------------------------------------------------------------------------------

    @property
    def table(self) -> Table:
        """The table of this node, as the placements are now."""
        assert self.node is not None
        version = self._hub.tables.version
        if self._table is None or self._table[0] != version:
            labels = None if self.node.gateway else self.node.labels
            table = self._hub.tables.table(labels, self.node.name)
            # Tables were made anew, or the node has linked: what it may still hold of before needs a tombstone.
            held = self._hub.withdrawals.on(self.node.name)
            self._hub.tables.withdraw(table, held if self._table is None else held | self._table[1].members)
            self._table = (version, table)
        return self._table[1]

    def put(self, keys: Iterable[PointerKey]) -> None:
        """Sends the entries of these pointers in their newest form."""
        self._dirty = self._dirty.union(keys) if self._dirty else frozenset(keys)
        self._hub.outbox.put(self)

    def put_full(self) -> None:
        """Sends the whole table."""
        self.full = True
        self._hub.outbox.put(self)

    def put_unpin(self, key: PointerKey) -> None:
        """Sends the end of the node's pin of a pointer with the next entries."""
        self._unpin = self._unpin.union((key,))
        self._hub.outbox.put(self)

    def put_message(self, message: BaseModel) -> None:
        """Sends a message after those that were put before it; an order under the present epoch."""
        if isinstance(message, (TableAsk, JobMessage)):
            self._expect("table_state" if isinstance(message, TableAsk) else "job_event")
        if isinstance(message, Order):
            message = message.model_copy(update={"epoch": self._hub.log.state.epoch})
        self._messages.append(message.model_dump_json())
        self._hub.outbox.put(self)

    def _expect(self, kind: str) -> None:
        """Lets the node send longer messages of a type: the hub has asked for them."""
        self._asked |= {kind}
        self._wire.conn.max_message_size = max(LARGE[one] for one in self._asked)

    def put_serving(self) -> None:
        """Sends a gateway what it is owed of where pointers are served."""
        self._serving = True
        self._hub.outbox.put(self)

    def put_bookmark(self) -> None:
        """Sends a heartbeat."""
        self._bookmark = True
        self._hub.outbox.put(self)

    def close(self, code: int, reason: str) -> None:
        """Ends the link: with this close code, or cut off after `CLOSE_S` where the node no longer reads."""
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
        """Waits until a close that was begun is over."""
        if self._closing is not None:
            await asyncio.wait((self._closing,))

    def relabelled(self) -> None:
        """Closes the link: its node is placed by other labels from its next hello on."""
        self.close(RELABELLED, "relabelled")

    def replaced(self) -> None:
        """Closes the link: its node has opened another one."""
        self.close(REPLACED, "replaced")

    def left_alone(self) -> None:
        """Closes the link: the other one under its node's name is gone, and its agent is to say hello again."""
        self.close(LEFT_ALONE, "settled")  # the word that agents of the version before look for

    @property
    def peer(self) -> str:
        """The address that its agent has."""
        client = self._socket.client
        return client.host if client is not None else "the hub's host"

    def revoked(self) -> None:
        """Closes the link: the token it was opened with was withdrawn."""
        self.close(REVOKED, "unauthenticated")

    async def serve(self) -> None:
        """Reads until the link ends. Raises: what `read` raises; CancelledError: it was closed from this end."""
        self._reader = asyncio.ensure_future(self.read())
        self._wire.on_writable = self._on_writable
        try:
            await asyncio.wait((self._reader,))
            self._reader.result()
        finally:
            self._reader.cancel()
            self._hub.gateways.unlinked(self)
            self._wire.release()
            if self._closing is not None:
                await asyncio.wait((self._closing,))

    # ---- sending -------------------------------------------------------------------------------------------

    def _on_writable(self) -> None:
        self._hub.outbox.put(self)

    def flush(self) -> None:
        """Writes what is owed, as far as the node reads. What a node waits for goes first."""
        wire = self._wire
        if not wire.writable.is_set() or self._closing is not None:
            return
        if self.node is not None:
            self.node.addressed = self._hub.fleet.clock()
        if self._welcome is not None and wire.write_frame(text_frame(self._welcome)):
            self._welcome = None
        if self.steered and (self.full or self._dirty or self._unpin) and wire.writable.is_set():
            wire.write_frame(self._desired())
        if self._serving and wire.writable.is_set():
            self._serving = False
            if (serving := self._hub.gateways.take(self)) is not None:
                wire.write_frame(text_frame(serving.model_dump_json()))
        while self._messages and self.node is not None and wire.write_frame(text_frame(self._messages[0])):
            del self._messages[0]
        if self._bookmark and wire.writable.is_set():
            self._bookmark = False
            if self.steered and self._sent_rev != self._hub.log.state.rev:
                wire.write_frame(self._desired())  # no entry of this node changed, but its rev goes on
            wire.write_frame(self._hub.bookmark())

    def _desired(self) -> bytes:
        assert self.node is not None
        state, keys = self._hub.log.state, None if self.full else self._dirty
        unpin = tuple(sorted(self._unpin))
        frame = self._hub.tables.desired(
            self.table,
            epoch=state.epoch,
            rev=state.rev,
            hash_=state.hash,
            position=self._hub.log.position(),
            prev_rev=self._sent_rev,
            keys=keys,
            unpin=unpin,
            features=self.node.features,
            signed=self.signed,
        )
        self.full, self._sent_rev = False, state.rev
        self._dirty = self._unpin = frozenset()
        return frame

    # ---- receiving -----------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Handles the node's messages until it leaves.

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
        if agreed(hello.protocol) is None:
            raise Refused(
                "protocol_mismatch",
                f"the node {hello.node} speaks version {hello.protocol} of the wire, this hub version {PROTOCOL}",
                detail=f"the node runs Loradeck {hello.version}",
                fix="bring hub and agents to neighbouring versions",
            )
        self._own(hello.replicas, hello.node)
        self._wire.conn.max_message_size = MESSAGE_BYTES
        if hello.jobs:  # that it runs since before this link
            self._expect("job_event")
        self.signed = hello.protocol > 1
        if not self.caller.joined:  # a token is no key that anybody could sign with
            hello = hello.model_copy(update={"cosigned": None})
        if hello.address and hello.address.rpartition(":")[0].strip("[]") not in self.caller.hosts:
            log.warning("address not believed node=%s says=%s: its certificate lacks it", hello.node, hello.address)
            hello = hello.model_copy(update={"address": ""})
        await self._greet(hello)
        del hello  # it would be held as long as the link
        self._wire.receiver = self._received
        while True:  # messages that came before that, then the end
            self._take(await self._next())

    def _received(self, data: bytes) -> None:
        """Handles a message; one that is refused ends the link."""
        if self._refused is not None:
            return
        rest_s = self._allowance.take(len(data), self._hub.fleet.clock())
        if rest_s:
            self._wire.pause_reading_for(rest_s)
        try:
            self._take(_parsed(data, self._asked))
        except Refused as refused:
            self._refused = refused
        except Exception:
            log.exception("link failed node=%s", self.caller.node)
            self._refused = Refused("internal_error", "the hub could not handle a message")
        if self._refused is not None:
            self._wire.queue.put_nowait({"type": "websocket.disconnect", "code": BAD_MESSAGE})

    async def _next(self) -> UpMessage:
        message = await self._socket.receive()
        if self._refused is not None:
            raise self._refused
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("text") or message.get("bytes") or b""
        # The first message may be as long as the server takes any.
        return _parsed(data.encode() if isinstance(data, str) else data, None if self.node is None else self._asked)

    def _own(self, replicas: Iterable[Replica], node: str) -> None:
        for replica in replicas:
            if not belongs(replica.replica, node):
                raise Refused(
                    "wrong_node",
                    f"the replica {replica.replica} does not belong to the node {node}",
                    fix=f"a replica is named '{node}' or '{node}.<engine>'",
                )

    async def _greet(self, hello: Hello) -> None:
        greeting = self._hub.greeting
        if await self._hub.challenges.enter(hello.node, self, hello.boot):
            node, refuse = await greeting.hello(hello, self, self.caller.labels)
        else:
            node, refuse = await greeting.contested(hello)
        self.node, gateway = node, GATEWAY_NAME in self.caller.hosts
        if node.gateway != gateway:
            node.gateway = gateway
            self._hub.fleet.unsaved.add(node.name)
        state = self._hub.log.state
        welcome = Welcome(
            epoch=state.epoch,
            rev=state.rev,
            hash=state.hash,
            refuse=refuse,
            protocol=PROTOCOL,
            keys=self._hub.log.signing.keys,
            recipes=RECIPES,
            parts=True,
        )
        self._welcome = welcome.model_dump_json()
        self._sent_rev = min(hello.rev, state.rev)
        if self.counts:
            greeting.greeted(node, hello, self, refuse)
        elif refuse is None:
            self.steer()

    def steer(self) -> None:
        """Sends table entries from now on, beginning with all of them, whatever the node holds already.

        The acknowledgements of all entries tell how far each of them is.
        """
        self.steered = True
        self.put_full()
        if self.node is not None and self.node.gateway:
            self._hub.gateways.linked(self)

    def _with_part(self, report: Report) -> Report:
        """A report with the parts of it that came before: what is counted first needs all of a router's counters."""
        part, self._part = self._part, None
        if part is None or part.router_boot != report.router_boot:
            return report
        traffic = part.traffic + report.traffic
        if len(traffic) > COUNTERS:
            raise Refused("invalid_request", "a report with too many rows", detail=f"{len(traffic)} in its parts")
        return report.model_copy(update={"traffic": traffic})

    def _take(self, message: UpMessage) -> None:
        node, fleet = self.node, self._hub.fleet
        assert node is not None
        if isinstance(message, ChallengeAnswer):
            self._hub.challenges.answered(node.name, self, message.nonce)
        if not self.counts:
            return
        fleet.heard(node)
        match message:
            case Ack():
                holder = fleet.node_of(message.replica)
                if holder is None and belongs(message.replica, node.name):
                    log.info("dropped: an acknowledgement of %s, which is no replica of its node now", message.replica)
                    return
                if holder != node.name:
                    raise Refused("wrong_node", f"the replica {message.replica} does not belong to {node.name}")
            case Report():
                self._own(message.replicas, node.name)
                message = self._with_part(message)
                if message.more:
                    self._part = message
                    return
            case TableState():
                self._asked -= {"table_state"}
                self._wire.conn.max_message_size = max((LARGE[one] for one in self._asked), default=MESSAGE_BYTES)
            case Resync():
                log.info("resync node=%s why=%s", node.name, message.why[:200])
                if self.steered:
                    self.put_full()
                return
            case Heartbeat() | ChallengeAnswer():
                return
            case Hello():
                raise Refused("invalid_request", "a link has one hello")
            case _:
                pass
        self._hub.handlers[type(message)](node, message)


_validate = fail_fast(up_adapter).validate_json
"""Not an adapter's method of that name: it hands on seven options, which takes nearly as long as the message does."""


def _parsed(data: bytes, asked: frozenset[str] | None) -> UpMessage:
    """Reads a message. `asked`: the types of which it may be long; None: it may be as long as it is.

    Raises: Refused: `invalid_request`.
    """
    if len(data) > MESSAGE_BYTES and asked is not None and not may_be_long(data, asked):
        raise Refused(
            "invalid_request", "a message that is too long", detail=f"{len(data):,} bytes of {MESSAGE_BYTES:,} at most"
        )
    if has_too_many_rows(data):
        raise Refused(
            "invalid_request", "a message with more rows than there is something in", detail=f"{len(data):,} bytes"
        )
    try:
        message: UpMessage = _validate(data)
        return message
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(
            "invalid_request", "a message that does not fit its schema", detail=f"{where}: {first['msg']}"
        ) from None
