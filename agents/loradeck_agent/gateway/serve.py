"""One gateway, put together: its link to the hub, its table, the callers' listener and its metrics."""

import asyncio
import logging
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

from aiohttp import web

import loradeck_agent
from loradeck.schemas.link import (
    Bookmark,
    Desired,
    DownMessage,
    Hello,
    Resync,
    Serving,
    TableAsk,
    TableState,
    TrustRoots,
    Welcome,
)
from loradeck.schemas.protocol import PROTOCOL, SUPPORTED
from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.connections import Connections
from loradeck.systemd.notify import Service
from loradeck_agent.gateway.proxy import GatewayProxy, Nodes
from loradeck_agent.gateway.routes import GatewayRoutes
from loradeck_agent.gateway.status import FILE, LOCK, SOCKET, status_of
from loradeck_agent.host.body_reader import BodyReader
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.identity import HubLogin, Identity
from loradeck_agent.host.listening import BACKLOG, bind, from_systemd
from loradeck_agent.host.process import settle
from loradeck_agent.host.state_folder import locked, make_private
from loradeck_agent.router.caller_limits import CallerLimits
from loradeck_agent.router.callers_api import server_of, strangers
from loradeck_agent.router.request_body import read
from loradeck_agent.uplink.hub_api import HubApi
from loradeck_agent.uplink.link import HubLinks
from loradeck_agent.uplink.membership import Renewal

log = logging.getLogger(__name__)

SETTLED_S = 5.0
"""When what there is is left out of garbage collections: by then a hub has sent its table."""

DRAIN_S = 10.0
"""How long answers under way may go on after SIGTERM."""


class Gateway:
    """One gateway on its state folder. `metrics`: HOST:PORT where its metrics are read; None: nowhere."""

    def __init__(self, config: AgentConfig, metrics: str | None = None) -> None:
        self.config = config
        make_private(config.state)
        login = HubLogin(config)
        self.routes = GatewayRoutes(config.state / FILE)
        self.nodes = Nodes(lambda: login.now().tls)
        self._bodies = BodyReader(read)
        self.proxy = GatewayProxy(
            admission=self.routes, bodies=self._bodies, limits=CallerLimits(config.router.limits), nodes=self.nodes
        )
        self._metrics = metrics
        self._boot = uuid.uuid4().hex
        self._hub = HubApi(config, login.now)
        self._renewal = Renewal(Identity(config.state), self._hub)
        self.link = HubLinks(
            config,
            login.now,
            hello=self._hello,
            handle=self._handle,
            changed=self._link_changed,
            chose=self._hub.use,
            noted=lambda: None,
        )
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Makes `run` return, once answers under way are over or have had `DRAIN_S`."""
        self._stop.set()

    async def run(self) -> None:
        """Sends callers on until `stop`.

        Raises:
            AgentError: `already_running`.
            OSError: an address cannot be bound, or a certificate cannot be used.
        """
        service = Service()
        with locked(self.config.state / LOCK, "gateway"):
            self.routes.load()
            self.nodes.set(self.routes.nodes, self.routes.lost)
            try:
                async with self._listening(), asyncio.TaskGroup() as group:
                    parts = (self.link.run(), self._renewal.run(), self.routes.keep_saved(), service.feed())
                    tasks = [group.create_task(part) for part in parts]
                    service.ready()
                    await self._stop.wait()
                    service.stopping()
                    for task in tasks:
                        task.cancel()
            finally:
                await self.routes.save()
                await self.nodes.close()
                await self._bodies.close()
                self._hub.close()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        router, loop = self.config.router, asyncio.get_running_loop()
        cert, key = (Identity(self.config.state).certificate, None) if router.tls else (router.tls_cert, router.tls_key)
        clients = router.client_ca
        tls = ServerCertificate(cert, key, clients, required=clients is not None) if cert is not None else None
        connections = Connections()
        outside = strangers(self.routes.tenants_of, connections, None, tls)
        server = server_of(self.proxy.handle, connections)
        runners = [web.ServerRunner(server, shutdown_timeout=DRAIN_S)]
        await runners[0].setup()
        servers = [
            await loop.create_server(lambda: outside.protocol(server), sock=sock, backlog=BACKLOG)
            for sock in from_systemd() or bind(router.listen)
        ]
        if self._metrics is not None:
            runners.append(web.ServerRunner(web.Server(self._tell, access_log=None), shutdown_timeout=0.1))
            await runners[1].setup()
            for sock in bind(self._metrics):
                await web.SockSite(runners[1], sock).start()
        runners.append(web.ServerRunner(web.Server(self._status, access_log=None), shutdown_timeout=0.1))
        await runners[-1].setup()
        try:
            await web.UnixSite(runners[-1], str(self.config.state / SOCKET)).start()
        except OSError as error:
            log.warning("`loradeck-agent status` cannot ask this gateway: %s", error)
        log.info("callers are taken at %s", router.listen)
        try:
            yield
        finally:
            for made in servers:
                made.close()
            outside.close()
            for runner in runners:
                await runner.cleanup()

    async def _tell(self, request: web.BaseRequest) -> web.Response:
        """Its metrics, in the text format of Prometheus."""
        if request.path != "/metrics":
            return web.Response(status=404)
        nodes = sorted(self.nodes.by_name.items())
        families: dict[str, dict[str, float]] = {
            "requests_total counter": {f'{{code="{code}"}}': n for code, n in sorted(self.proxy.counts.items())},
            "retries_total counter": {"": self.proxy.retries},
            "hints_total counter": {"": self.proxy.hints},
            "hub_silent_seconds gauge": {"": round(self.link.silent_s, 1)},
            "node_requests gauge": {f'{{node="{name}"}}': node.health.under_way for name, node in nodes},
            "node_failures gauge": {f'{{node="{name}"}}': node.health.failures for name, node in nodes},
        }
        lines = list[str]()
        for family, samples in families.items():
            name = f"loradeck_gateway_{family.split()[0]}"
            lines += [f"# TYPE loradeck_gateway_{family}", *(f"{name}{of} {n}" for of, n in samples.items())]
        return web.Response(text="\n".join(lines) + "\n")

    async def _status(self, request: web.BaseRequest) -> web.Response:
        """Answers `loradeck-agent status`, over a socket that is its user's own."""
        link = {"hub": self.link.hub, "silent_s": int(self.link.silent_s), **asdict(self.link.status)}
        health = {name: pool.health for name, pool in self.nodes.by_name.items()}
        return web.json_response(status_of(self.config.node, self.routes.saved(), health) | {"link": link})

    # ---- the hub -------------------------------------------------------------------------------------------

    async def _hello(self) -> Hello:
        """It follows the log as a node does, so that a hub that lost moves learns of them."""
        return Hello(
            node=self.config.node,
            boot=self._boot,
            version=loradeck_agent.__version__,
            labels=self.config.labels,
            **vars(self.routes.table.cursor),
            replicas=(),
            protocol=PROTOCOL,
            features=tuple(sorted(SUPPORTED)),
        )

    async def _handle(self, message: DownMessage) -> None:
        why = None
        match message:
            case Welcome():
                self.routes.table.welcome(message)
            case Desired():
                why = self.routes.directive(message)
            case Bookmark():
                why = self.routes.bookmark(message)
                if not self.routes.is_served:
                    log.error("the hub does not take this node for a gateway: let it join with a token of --gateway")
            case Serving():
                self.routes.serving(message)
                self.nodes.set(self.routes.nodes, self.routes.lost)
            case TableAsk():
                cursor, entries = self.routes.table.cursor, tuple(self.routes.table.entries.values())
                held = TableState(epoch=cursor.epoch, rev=cursor.rev, hash=cursor.hash, entries=entries)
                await self.link.send(held)
            case TrustRoots():
                self._renewal.told(message.roots)
        if why is not None:
            await self.link.send(Resync(why=why))

    async def _link_changed(self, connected: bool) -> None:
        self.routes.is_linked = connected
        if not connected:
            log.warning("no hub is linked: callers are sent on by the last table")


async def serve(config: AgentConfig, metrics: str | None) -> None:
    """Runs a gateway until SIGTERM or SIGINT."""
    gateway = Gateway(config, metrics)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, gateway.stop)
    asyncio.get_running_loop().call_later(SETTLED_S, settle)
    await gateway.run()
