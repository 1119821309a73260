"""The links to all hubs of an agent: for each one outbound WebSocket, kept up for as long as the agent runs.

A link connects, says hello, hands every message that comes down to its owner in order, and beats in both directions. A
hub that is silent for `LINK_TTL_S` is given up; reconnecting waits with full jitter, so that a fleet does not come back
all at once.

One hub steers the node: the one that `rules.moves.steering` chooses. A link is kept to each, so that one which takes
over is heard as soon as it says so. What the others send is passed over: whatever they say of the table counts for
nothing here, and what this node says goes to the one that it follows.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from pydantic import BaseModel, ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import CloseCode

from loradeck.client.backoff import Backoff
from loradeck.rules.moves.steering import Offer, steering
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.link import (
    Bookmark,
    Challenge,
    ChallengeAnswer,
    Desired,
    DownMessage,
    Heartbeat,
    Hello,
    Welcome,
    down_adapter,
)
from loradeck.schemas.problem import Problem
from loradeck.schemas.protocol import PROTOCOL, agreed
from loradeck.schemas.replica_state import HEARTBEAT_S, LINK_TTL_S, NOT_ACTIVE
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.host.identity import Login

log = logging.getLogger(__name__)

MESSAGE_BYTES = 64 * 2**20
"""Largest message taken from a hub: a table of ten thousand entries is about 20 MB."""


@dataclass
class LinkStatus:
    """State of the link, for `loradeck-agent status`."""

    connected: bool = False
    since_ms: int = 0
    refused: str | None = None
    error: str | None = None
    contested: bool = False
    """Whether another agent is linked under this node's name."""


_VERSIONS = "bring hub and agents to neighbouring versions of Loradeck"

_REMEDIES = {
    "protocol_mismatch": _VERSIONS,
    "replaced": "another agent has linked as this node: give every host a node name and a token of its own",
    "settled": "the other agent that was linked as this node is gone",
    "wrong_node": "the token or a replica belongs to another node; on the hub's host: "
    "loradeck token create --role agent --node NODE --name NODE --out FILE",
    "not_active": "another hub has taken over: give this agent that hub's address",
    "unauthenticated": "this node's key or token was revoked; to let it in again, on the hub's host: "
    "loradeck node token NODE --out FILE, then loradeck-agent join here",
}
"""By the reason with which a hub ends a link: what to do about it."""


class LinkLost(Exception):
    """The link ended. The text gives the reason, for the log. `restarts`: the hub ended it because it begins anew."""

    def __init__(self, why: str, *, restarts: bool = False) -> None:
        super().__init__(why)
        self.restarts = restarts


class Link:
    """The agent's end of the link.

    Args:
        login: what each connection is opened with.
        hello: builds the first message of a connection.
        handle: is given every message after the hub's welcome, and the welcome; one at a time, in order.
        changed: called with True after a welcome and with False when the link is lost.
        noted: called when `status` has changed.
        parse: reads a message; raises ValidationError.
    """

    def __init__(
        self,
        config: AgentConfig,
        login: Callable[[], Login],
        *,
        hello: Callable[[], Awaitable[Hello]],
        handle: Callable[[DownMessage], Awaitable[None]],
        changed: Callable[[bool], Awaitable[None]],
        noted: Callable[[], None] = lambda: None,
        backoff: Backoff | None = None,
        parse: Callable[[str | bytes], DownMessage] = down_adapter.validate_json,
    ) -> None:
        self.status = LinkStatus()
        self._url = config.hub.replace("http", "ws", 1) + "/v1/link"
        self._login = login
        self._hello = hello
        self._handle = handle
        self._changed = changed
        self._noted = noted
        self._parse = parse
        self._backoff = backoff or Backoff(0.5, LINK_TTL_S / 2)
        self._socket: ClientConnection | None = None
        self._last_message_at = time.monotonic()
        self._waiting_since: float | None = None
        """When the agent began to wait for the hub's next message, monotonic; None while it handles one."""
        self._gave_up = False
        """Whether this end cut the present connection, because the hub was silent."""

    @property
    def silent_s(self) -> float:
        """Seconds since the hub's last message, or since the agent's start."""
        return time.monotonic() - self._last_message_at

    @property
    def connected(self) -> bool:
        """Whether the hub has welcomed the present connection."""
        return self._socket is not None

    async def send(self, message: BaseModel) -> bool:
        """Sends one message. False: the link is down, and the message is not kept."""
        return await self.send_text(message.model_dump_json())

    async def send_text(self, text: str) -> bool:
        """Sends one message that is written already. False: as of `send`."""
        socket = self._socket
        if socket is None:
            return False
        try:
            await socket.send(text)
        except ConnectionClosed:
            return False
        return True

    async def run(self) -> None:
        """Connects, and connects again after each loss, until cancelled."""
        failures = 0
        while True:
            began, restarts = time.monotonic(), False
            try:
                await self._one_connection()
            except LinkLost as lost:
                if self.status.error != str(lost):
                    log.warning("%s", lost)
                self.status.error = str(lost)
                self._noted()
                restarts = lost.restarts
            # A hub that stood by ends its links when it takes over, and may have been linked for a moment only.
            failures = 0 if restarts or time.monotonic() - began > LINK_TTL_S else failures + 1
            await asyncio.sleep(self._backoff.pause(failures))

    async def _one_connection(self) -> None:
        try:
            login = self._login()
        except ConfigError as error:
            raise LinkLost(error.sentence) from error
        try:
            async with connect(
                self._url,
                additional_headers=dict(login.headers),
                ssl=login.tls,
                server_hostname=login.server,
                compression=None,
                ping_interval=None,
                proxy=None,
                max_size=MESSAGE_BYTES,
                open_timeout=LINK_TTL_S,
                close_timeout=2,
            ) as socket:
                self._gave_up, self._waiting_since = False, None
                watch = asyncio.create_task(self._watch(socket))
                try:
                    hello = await self._hello()
                    await socket.send(hello.model_dump_json())
                    await self._converse(socket, hello.boot)
                finally:
                    watch.cancel()
        except InvalidStatus as refused:
            raise LinkLost(_refusal(refused)) from refused
        except ConnectionClosed as closed:
            if self._gave_up:
                raise LinkLost(f"the link to the hub was lost: no message for {LINK_TTL_S:g} s") from closed
            why = closed.rcvd.reason or f"code {closed.rcvd.code}" if closed.rcvd else "the connection broke"
            remedy = _REMEDIES.get(why)
            raise LinkLost(
                f"the link to the hub was lost: {why}" + (f"; {remedy}" if remedy else ""),
                restarts=closed.rcvd is not None and closed.rcvd.code == CloseCode.SERVICE_RESTART,
            ) from closed
        except TimeoutError as timeout:
            raise LinkLost(f"the hub cannot be reached at {self._url}: no answer for {LINK_TTL_S:g} s") from timeout
        except (OSError, WebSocketException) as error:
            raise LinkLost(f"the hub cannot be reached at {self._url}: {error}") from error

    async def _converse(self, socket: ClientConnection, boot: str) -> None:
        first = await self._receive(socket)
        if not isinstance(first, Welcome):
            raise LinkLost(f"the hub's first message was {first.type!r}, not a welcome")
        if agreed(first.protocol) is None:
            raise LinkLost(
                f"the hub speaks version {first.protocol} of the wire, this agent version {PROTOCOL}; {_VERSIONS}"
            )
        self._socket = socket
        self.status = LinkStatus(True, time.time_ns() // 1_000_000, first.refuse)
        log.info("linked to the hub at %s, epoch %d", self._url, first.epoch)
        self._noted()
        beat = asyncio.create_task(self._beat(socket))
        try:
            await self._handle(first)
            await self._changed(True)
            while True:
                message = await self._receive(socket)
                if isinstance(message, Challenge):  # also of a hub that is not followed: it asks about this link
                    await socket.send(ChallengeAnswer(nonce=message.nonce, boot=boot).model_dump_json())
                    continue
                if isinstance(message, Welcome):
                    self.status.refused = message.refuse
                    self._noted()
                await self._handle(message)
        finally:
            self._socket = None
            self.status = LinkStatus(False, time.time_ns() // 1_000_000, error=self.status.error)
            beat.cancel()
            await self._changed(False)

    async def _receive(self, socket: ClientConnection) -> DownMessage:
        """The next message. One of a kind that only a newer hub knows is skipped."""
        while True:
            self._waiting_since = time.monotonic()
            raw = await socket.recv()
            self._waiting_since = None
            self._last_message_at = time.monotonic()
            try:
                return self._parse(raw)
            except ValidationError as error:
                first = error.errors()[0]
                if first["type"] != "union_tag_invalid":
                    raise LinkLost(f"the hub sent a message that cannot be read: {first_wrong(error)}") from error
                log.warning("skipped: the hub sent a message of an unknown kind (%s)", first["ctx"]["tag"])

    async def _watch(self, socket: ClientConnection) -> None:
        """Cuts a connection whose hub is silent for `LINK_TTL_S` while the agent waits for it.

        The time in which a message is handled does not count: what came meanwhile is not read yet. One timer, and not
        one for each message.
        """
        while True:
            since = self._waiting_since
            left = LINK_TTL_S if since is None else since + LINK_TTL_S - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(left)
        self._gave_up = True
        socket.transport.abort()

    async def _beat(self, socket: ClientConnection) -> None:
        beat = Heartbeat().model_dump_json()
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await socket.send(beat)
            except ConnectionClosed:
                return


def _refusal(refused: InvalidStatus) -> str:
    """The refusal in one line for an operator: the problem's code, the problem and the remedy."""
    response = refused.response
    try:
        problem = Problem.model_validate_json(response.body or b"")
    except ValidationError:
        return f"the hub refused this agent: HTTP {response.status_code}"
    line = f"the hub refused this agent: {problem.code}: {problem.title}"
    return line + "".join(f"; {part}" for part in (problem.detail, problem.fix) if part)


class HubLinks:
    """One link to each of `config.hubs`, used as if it were one link.

    Args:
        login: what each connection is opened with.
        handle: is given every message of the hub that is followed, beginning with its welcome; one at a time, in order.
        changed: called with True after the welcome of another hub than before, and with False when none is left.
        chose: called with the address of the hub that is followed from now on.
        noted: called when `hub` or `status` may have changed.

    Attributes:
        hub: address of the hub that is followed, or was followed last.
    """

    def __init__(
        self,
        config: AgentConfig,
        login: Callable[[], Login],
        *,
        hello: Callable[[], Awaitable[Hello]],
        handle: Callable[[DownMessage], Awaitable[None]],
        changed: Callable[[bool], Awaitable[None]],
        chose: Callable[[str], None],
        noted: Callable[[], None],
        backoff: Backoff | None = None,
    ) -> None:
        self.hub = config.hub
        self._links = {
            hub: Link(
                config.model_copy(update={"hubs": (hub,)}),
                login,
                hello=hello,
                handle=partial(self._heard, hub),
                changed=partial(self._linked, hub),
                noted=noted,
                backoff=backoff,
            )
            for hub in config.hubs
        }
        self._handle = handle
        self._changed = changed
        self._chose = chose
        self._noted = noted
        self._present: str | None = None
        self._offers: dict[str, Offer] = {}
        self._welcomes: dict[str, Welcome] = {}
        self._turn = asyncio.Lock()

    @property
    def status(self) -> LinkStatus:
        """State of the link to the hub that is followed, or was followed last."""
        return self._links[self.hub].status

    @property
    def silent_s(self) -> float:
        """Seconds since that hub's last message, or since the agent's start."""
        return self._links[self.hub].silent_s

    @property
    def connected(self) -> bool:
        """Whether there is a hub to follow."""
        return self._present is not None and self._links[self._present].connected

    @property
    def takes_parts(self) -> bool:
        """Whether the hub that is followed takes reports in parts; one of the version before takes them whole."""
        return self._present is not None and self._welcomes[self._present].parts

    async def send(self, message: BaseModel) -> bool:
        """Sends one message to the hub that is followed. False: there is none, and the message is not kept."""
        return await self.send_text(message.model_dump_json())

    async def send_text(self, text: str) -> bool:
        """Sends one message that is written already. False: as of `send`."""
        return self._present is not None and await self._links[self._present].send_text(text)

    async def run(self) -> None:
        """Keeps every link up until cancelled."""
        async with asyncio.TaskGroup() as group:
            for link in self._links.values():
                group.create_task(link.run())

    async def _heard(self, hub: str, message: DownMessage) -> None:
        async with self._turn:
            match message:
                case Welcome():
                    self._welcomes[hub] = message
                    active = message.refuse != NOT_ACTIVE
                    self._offers[hub] = Offer(epoch=message.epoch, proven=message.refuse is None, active=active)
                    if await self._choose():
                        return  # which has handed it on
                case Desired() | Bookmark():
                    offer = self._offers[hub]
                    # One that lacked what this node has seen sends its whole table once it has recovered.
                    whole = isinstance(message, Desired) and message.full
                    proven = offer.proven or (whole and message.epoch > self._welcomes[hub].epoch)
                    if message.epoch > offer.epoch or proven != offer.proven:
                        self._offers[hub] = replace(offer, epoch=max(offer.epoch, message.epoch), proven=proven)
                        await self._choose()
                case _:
                    pass
            if hub == self._present:
                await self._handle(message)

    async def _linked(self, hub: str, connected: bool) -> None:
        if connected:
            return  # its welcome was heard before
        async with self._turn:
            self._offers.pop(hub, None)
            if hub == self._present:
                self._present = None
                if not await self._choose():
                    await self._changed(False)

    async def _choose(self) -> bool:
        """Follows another hub, if there is a better one. Returns whether it does."""
        chosen = steering(self._offers, self._present)
        if chosen is None or chosen == self._present:
            return False
        self._present = self.hub = chosen
        if len(self._links) > 1:
            log.info("the hub at %s is followed, epoch %d", chosen, self._offers[chosen].epoch)
        self._chose(chosen)
        self._noted()
        await self._handle(self._welcomes[chosen])
        await self._changed(True)
        return True
