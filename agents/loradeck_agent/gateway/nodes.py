"""The nodes that a gateway asks, each with its connections, and which of them are asked last."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping

import aiohttp
from yarl import URL

from loradeck.rules.serving.gateway import NodeHealth, ranked, told_ahead
from loradeck.schemas.feedback import FEEDBACK_PATH
from loradeck.schemas.ids import Name
from loradeck.schemas.replica_state import AckLevel
from loradeck_agent.router.engine_pools import COMPLETIONS
from loradeck_agent.router.hints import HINT_PATH
from loradeck_agent.router.upstream_session import upstream_session

log = logging.getLogger(__name__)

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=600)
_IDLE_S = 30.0
"""Shorter than routers keep idle connections (75 s), so that no request meets a closing one."""

_LOOK_S = 1.0
"""How long a look at the certificate is good for."""


class NodePool:
    """One node's router and the connections to it."""

    def __init__(self, name: Name, address: str) -> None:
        self.name, self.address = name, address
        self.urls = {path: URL(f"https://{address}{path}") for path in (*COMPLETIONS, FEEDBACK_PATH, HINT_PATH)}
        self.health = NodeHealth()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S, socket_factory=_lively)
        self.session = upstream_session(connector, _TIMEOUT)
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self) -> None:
        """Counts one more answer under way here."""
        self.health.take(time.monotonic())
        self._idle.clear()

    def give_back(self) -> None:
        """An answer that was under way here is over."""
        self.health.give_back()
        if not self.health.under_way:
            self._idle.set()

    def heard(self) -> None:
        """It has sent something."""
        self.health.heard(time.monotonic())

    def failed(self, why: object) -> None:
        """It could not be reached, or was lost in mid-answer."""
        self.health.failed(time.monotonic())
        if self.health.failures == 1:  # the others in a row would say the same, request by request
            log.warning("%s at %s: %s", self.name, self.address, why)

    async def retire(self) -> None:
        """Closes the connections once the answers under way are over. Nothing may be sent here any more."""
        await self._idle.wait()
        await self.session.close()


class Nodes:
    """All nodes with an address. One that stays where it is keeps its connections.

    `tls`: the gateway's own certificate, and the authority that has signed the nodes'.
    """

    def __init__(self, tls: Callable[[], ssl.SSLContext | None]) -> None:
        self.by_name: dict[Name, NodePool] = {}
        self._lost: frozenset[Name] = frozenset()
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._looked = -_LOOK_S
        self._closing: set[asyncio.Task[None]] = set()

    def set(self, addresses: Mapping[Name, str], lost: Iterable[Name] = ()) -> None:
        """Replaces the whole list; answers under way at a node that left go on to their end.

        Those that the hub has lost are asked last: it may be the hub that is cut off.
        """
        self._lost = frozenset(lost)
        before, self.by_name = self.by_name, {}
        for name, address in addresses.items():
            known = before.get(name)
            if known is not None and known.address == address:
                self.by_name[name] = before.pop(name)
            else:
                self.by_name[name] = NodePool(name, address)
        for gone in before.values():
            task = asyncio.get_running_loop().create_task(gone.retire())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def ranked(self, served: Mapping[Name, AckLevel], prompt: bytes) -> list[Name]:
        """The nodes that a request asks, in this order."""
        now, known = time.monotonic(), {name: level for name, level in served.items() if name in self.by_name}
        if len(known) < 2:
            return list(known)
        under_way, avoided = dict[Name, int](), list[Name]()
        for name in known:
            health = self.by_name[name].health
            under_way[name] = health.under_way
            if name in self._lost or health.is_avoided(now):
                avoided.append(name)
        return ranked(known, under_way, avoided, prompt)

    def told_ahead(self, served: Mapping[Name, AckLevel]) -> NodePool | None:
        """Returns the node to which a coming request is announced; None: it is announced to none."""
        now = time.monotonic()
        known = {name: level for name, level in served.items() if name in self.by_name}
        avoided = [name for name in known if name in self._lost or self.by_name[name].health.is_avoided(now)]
        name = told_ahead(known, avoided)
        return self.by_name[name] if name is not None else None

    @property
    def context(self) -> ssl.SSLContext | bool:
        """The TLS settings of connections to nodes; certificates that are renewed count from the next connection on."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked, self._context = now, self._tls()
        return self._context or True

    async def close(self) -> None:
        """Closes all connections."""
        for task in self._closing:
            task.cancel()
        for pool in self.by_name.values():
            await pool.session.close()


def _lively(address: tuple[object, ...]) -> socket.socket:
    """A socket whose peer is known to be gone within about ten seconds, where its host no longer answers."""
    made = socket.socket(address[0], address[1], address[2])  # type: ignore[arg-type]
    for option, value in ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
    made.setblocking(False)
    return made
