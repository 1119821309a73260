"""A node and a gateway beside a hub of this process: real links, a real router over mutual TLS, a stub of an engine.

The engine answers by its name and that of the release. The agent between link and router is a few lines here: it hands
entries over, and says what the router acknowledged.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from tests.fleets.host import free_port
from tests.fleets.linked.agent import BUILD
from tests.fleets.linked.hub import BASE, Deck
from tests.fleets.linked.member import Member
from tests.fleets.waiting import until
from tests.integration.router.running import Answer, Running
from tests.integration.router.upstream import Upstream

from loradeck.client.backoff import Backoff
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.ids import GENESIS
from loradeck.schemas.jobs import JobAssignment
from loradeck.schemas.link import Ack, Desired, DownMessage, Hello, JobEvent, JobMessage, Replica
from loradeck.schemas.protocol import PROTOCOL, SUPPORTED
from loradeck.schemas.replica_state import AckLevel, AckState, EngineState
from loradeck.schemas.table import ReleaseRef
from loradeck.strangers.certificates import ServerCertificate
from loradeck_agent.gateway.serve import Gateway
from loradeck_agent.host.config import AgentConfig, RouterConfig
from loradeck_agent.uplink.link import Link


class ServingNode(Member):
    """One node.

    `address`: what it says in its hello. `obeys`: False: it hears nothing of what comes down. `loads`: False: its
    engine has loaded nothing yet, see `load`.
    """

    def __init__(self, deck: Deck, folder: Path, name: str) -> None:
        super().__init__(deck, folder, name)
        self.name = name
        (folder / f"{name}.router").mkdir()
        self.router = Running(folder / f"{name}.router")
        self.engine = Upstream(name, str(folder / f"{name}.sock"))
        self.address = f"127.0.0.1:{self.router.port}"
        self.level = AckLevel.DEVICE
        self.labels: dict[str, str] = {}
        self.obeys = True
        self.loads = True
        self.releases: dict[str, ReleaseRef] = {}
        self._task: asyncio.Task[None] | None = None
        self._link: Link | None = None

    async def start(self) -> ServingNode:
        """Joins, serves and links; returns once the hub has welcomed it."""
        await self.join(await self.invited(hosts=["127.0.0.1"]))
        await self.serve()
        await self.relink()
        return self

    async def serve(self) -> None:
        """Starts its engine and its router, which takes callers with a certificate of the fleet."""
        await self.engine.start()
        certificate, authority = self.identity.certificate, self.identity.authority
        await self.router.start_here(tls=ServerCertificate(certificate, None, authority, required=True))

    async def relink(self) -> None:
        """Links, perhaps once more; returns once the hub has welcomed it."""
        await self.router.post("/control/hub", {"connected": True})
        self._link = self.link()
        self._task = asyncio.create_task(self._link.run())
        await until(lambda: self._link is not None and self._link.connected, f"{self.name} is linked")

    async def die(self) -> None:
        """Its host is gone: link, router and engine."""
        await self.stop()
        if self.router.here is not None:
            here, self.router.here = self.router.here, None
            for server in here._listening:
                server.close()
            for runner in here._runners:
                for connection in list(runner.server.connections):  # type: ignore[union-attr]
                    if connection.transport is not None:
                        connection.transport.abort()
            await here.stop()

    async def stop(self) -> None:
        """Ends its link alone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def close(self) -> None:
        await self.die()
        await self.router.close()
        await self.engine.stop()

    def link(self) -> Link:
        async def hello() -> Hello:
            replica = Replica(
                replica=self.name, state=EngineState.UP, boot="b1", base=BASE.digest, build=BUILD, slots=8, loaded=()
            )
            return Hello(
                node=self.name,
                boot=self.name,
                version="0",
                labels=self.labels,
                epoch=0,
                rev=0,
                hash=GENESIS,
                replicas=(replica,),
                protocol=PROTOCOL,
                features=tuple(SUPPORTED),
                address=self.address,
            )

        async def handle(message: DownMessage) -> None:
            self.received.append(message)
            if isinstance(message, JobMessage):
                await link.send(_finished(message.job))
            if isinstance(message, Desired) and self.obeys:
                await self._obey(message, link)

        async def changed(_: bool) -> None:
            pass

        backoff = Backoff(0.05, 0.2)
        link = Link(self.config, self.login.now, hello=hello, handle=handle, changed=changed, backoff=backoff)
        return link

    async def load(self) -> None:
        """Its engine loads what it was told to hold, and the router flips to it."""
        self.loads = True
        assert self._link is not None
        await self._say(await self._engines(), self._link)

    async def _engines(self) -> list[dict[str, Any]]:
        ready = list(self.releases.values()) if self.loads else []
        return await self.router.engines((self.name, self.engine.socket, ready), base=BASE.digest)

    async def _obey(self, message: Desired, link: Link) -> None:
        self.releases |= {ref.id: ref for entry in message.entries for ref in entry.refs}
        await self._engines()
        body = message.model_dump(mode="json", include={"epoch", "rev", "hash", "entries"})
        await self._say((await self.router.post("/control/table", body))["acks"], link)

    async def _say(self, acks: list[dict[str, Any]], link: Link) -> None:
        for said in acks:
            level = self.level if self.loads else AckLevel.DISK
            ack = Ack.model_validate(said).model_copy(update={"level": level})
            await link.send(ack)
            if ack.state is AckState.FLIPPED and ack.release is not None:
                await link.send(ack.model_copy(update={"state": AckState.PROVEN}))


def _finished(job: JobAssignment) -> JobEvent:
    event = ExecutorEvent(run=job.id, attempt=job.attempt, seq=1, ts=0, type=ExecutorEventType.FINISHED)
    return JobEvent(job=job.id, lease=job.lease, attempt=job.attempt, event=event)


class RunningGateway:
    """A gateway in this process, and a caller of it."""

    def __init__(self, deck: Deck, folder: Path, name: str) -> None:
        self.member = Member(deck, folder, name)
        self.port = free_port()
        state = folder / f"{name}.gw"
        self.config = AgentConfig(
            node=name,
            hub=f"https://127.0.0.1:{deck.nodes_port}",
            token=folder / f"{name}.token",
            state=state,
            router=RouterConfig(listen=f"127.0.0.1:{self.port}"),
        )
        self.member.config = self.config
        self.member.identity.__init__(state)  # type: ignore[misc]
        self.gateway: Gateway | None = None
        self._task: asyncio.Task[None] | None = None
        self.callers = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def join(self) -> RunningGateway:
        await self.member.join(await self.member.invited(gateway=True))
        return self

    async def start(self) -> Gateway:
        """Runs on its folder; returns once it takes callers."""
        self.gateway = Gateway(self.config)
        self._task = asyncio.create_task(self.gateway.run())
        await until(self._takes_callers, "the gateway takes callers")
        return self.gateway

    def _takes_callers(self) -> bool:
        assert self._task is not None
        if self._task.done():
            self._task.result()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 0.1).close()
            return True
        return False

    async def knows(self, *names: str) -> None:
        """Until it knows these nodes and no others, and a route that is served."""
        gateway = self.gateway
        assert gateway is not None
        await until(lambda: sorted(gateway.nodes.by_name) == sorted(names), f"it knows {names}")

    async def stop(self) -> None:
        if self._task is not None and self.gateway is not None:
            self.gateway.stop()
            await self._task
            self._task = None

    async def close(self) -> None:
        await self.callers.close()
        await self.stop()

    async def ask(
        self, key: str | None, model: str = "acme", *, stream: bool = False, prompt: str = "hello", **test: Any
    ) -> Answer:
        """One request, read to its end."""
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        body |= {"stream": True} if stream else {}
        body |= {"test": test} if test else {}
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        async with self.callers.post(url, json=body, headers=headers) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.read())

    async def get(self, path: str, key: str | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        async with self.callers.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.read())


@asynccontextmanager
async def gateway(deck: Deck, folder: Path, name: str = "gw") -> AsyncIterator[RunningGateway]:
    """A gateway that has joined, and runs until the block ends."""
    made = await RunningGateway(deck, folder, name).join()
    try:
        await made.start()
        yield made
    finally:
        await made.close()
