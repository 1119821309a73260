"""One router, put together: table, switch, the callers' listener and the control socket."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.route import BODY_CAP, KeyLimits, NodeLimits
from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.protocol import Limits
from loradeck_agent.host.body_reader import BodyReader
from loradeck_agent.host.state_folder import spare_address
from loradeck_agent.router.admission import Admission
from loradeck_agent.router.caller_limits import CallerLimits
from loradeck_agent.router.control import Control
from loradeck_agent.router.counters import Stats
from loradeck_agent.router.engine_pools import Replicas
from loradeck_agent.router.hub_silence import HubSilence
from loradeck_agent.router.proxy import Proxy
from loradeck_agent.router.request_body import read
from loradeck_agent.router.request_faults import RequestFaults
from loradeck_agent.router.response_checks import Checks
from loradeck_agent.router.strangers import strangers
from loradeck_agent.router.switch import Switch
from loradeck_agent.router.table import Table
from loradeck_agent.router.trace import Trace

log = logging.getLogger(__name__)

DRAIN_S = 10.0
"""How long answers under way may go on after SIGTERM."""


class Router:
    """Holds the folder's lock from construction to `stop`."""

    def __init__(self, state: Path, key_limits: KeyLimits | None = None, untold: Collection[PointerKey] = ()) -> None:
        """Takes the folder. `key_limits`: of each caller's key, where a route sets none; `untold` as in `Switch.start`.

        Raises:
            TableFault: another router runs here, or the table is damaged.
        """
        self._untold = untold
        self.boot = secrets.token_hex(8)
        self._table = Table(state)
        self._socket = state / "router.sock"
        self._stats = Stats()
        self._trace = Trace()
        self._checks = Checks()
        self._bodies = BodyReader(read)
        self._limits = CallerLimits(key_limits or NodeLimits())
        self._faults = RequestFaults()
        self._hub_silence = HubSilence(self._table)
        self._replicas = Replicas()
        self._admission = Admission(self._hub_silence, self._stats)
        self.switch = Switch(self._table, self._admission, self._replicas)
        self._runners: list[web.BaseRunner] = []
        self._closes: list[Callable[[], object]] = []

    async def start(
        self, host: str, port: int, tls: ServerCertificate | None = None, limits: Limits | None = None
    ) -> None:
        """Serves the table as it stands, then opens the control socket. `limits` are those of strangers.

        Raises:
            OSError: an address cannot be bound.
        """
        self.switch.start(self._untold)
        mending = asyncio.create_task(self.switch.keep_mending())
        self._closes.append(mending.cancel)
        self._checks.start()
        self.proxy = Proxy(self._admission, self._checks, self._trace, self._bodies, self._limits, self._faults)
        server = web.Server(self.proxy.handle, request_factory=_request, handler_cancellation=True, access_log=None)
        callers = web.ServerRunner(server, shutdown_timeout=DRAIN_S)
        await callers.setup()
        self._runners.append(callers)
        outside = strangers(self._admission, limits, tls)
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: outside.protocol(server), host, port, backlog=1024)
        self._closes += (listening.close, outside.close)

        control = Control(
            self.boot,
            self._table.contents,
            self.switch,
            self._admission,
            self._hub_silence,
            self._stats,
            self._trace,
        )
        agent = web.AppRunner(control.app(), access_log=None, shutdown_timeout=1.0)
        await agent.setup()
        self._runners.append(agent)
        before = os.umask(0o177)
        try:
            self._socket.unlink(missing_ok=True)  # left by a router that was killed; the lock says that it is gone
            await web.UnixSite(agent, str(self._socket)).start()
        except OSError as fault:
            log.error("the disk takes no control socket, the agent finds its spare address: %s", fault)
            control.asks_user = True
            await web.UnixSite(agent, spare_address(self._socket.with_name("router.lock"))[0]).start()
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Accepts nothing more, lets answers finish for up to DRAIN_S, and gives the folder back."""
        for close in self._closes:
            close()
        for runner in self._runners:
            await runner.cleanup()
        await self._checks.close()
        await self._bodies.close()
        await self._faults.close()
        await self._replicas.close()
        with suppress(OSError):
            self._socket.unlink()
        self._table.close()


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """As aiohttp makes it, with our cap on a body."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_CAP)
