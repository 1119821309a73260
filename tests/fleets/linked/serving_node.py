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
from tests.fleets.linked.hub import BASE, Deck
from tests.fleets.linked.member import Member
from tests.fleets.waiting import until
from tests.integration.router.running import Answer, Running
from tests.integration.router.upstream import Upstream

from loradeck.schemas.link import Ack, Desired
from loradeck.schemas.replica_state import AckLevel, AckState
from loradeck.schemas.table import ReleaseRef
from loradeck.strangers.certificates import ServerCertificate
from loradeck_agent.gateway.serve import Gateway


class ServingNode(Member):
    """One node.

    `address`: what it says in its hello. `obeys`: False: it hears nothing of what comes down. `loads`: False: its
    engine has loaded nothing yet, see `load`.
    """

    def __init__(self, deck: Deck, folder: Path, name: str) -> None:
        super().__init__(deck, folder, name)
        (folder / f"{name}.router").mkdir()
        self.router = Running(folder / f"{name}.router")
        self.engine = Upstream(name, str(folder / f"{name}.sock"))
        self.replica = self.replica.model_copy(update={"slots": 8})
        self.replicas = (self.replica,)
        self.address = f"127.0.0.1:{self.router.port}"
        self.level = AckLevel.DEVICE
        self.obeys = True
        self.loads = True
        self.releases: dict[str, ReleaseRef] = {}
        self._task: asyncio.Task[None] | None = None

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
        link = self.link()
        self._task = asyncio.create_task(link.run())
        await until(lambda: link.connected, f"{self.name} is linked")

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

    async def load(self) -> None:
        """Its engine loads what it was told to hold, and the router flips to it."""
        self.loads = True
        await self._pass_on(await self._engines())

    async def _engines(self) -> list[dict[str, Any]]:
        ready = list(self.releases.values()) if self.loads else []
        return await self.router.engines((self.name, self.engine.socket, ready), base=BASE.digest)

    async def _desired(self, message: Desired) -> None:
        """Hands the entries over to its router, and says what that acknowledged."""
        if not self.obeys:
            return
        self.releases |= {ref.id: ref for entry in message.entries for ref in entry.refs}
        await self._engines()
        body = message.model_dump(mode="json", include={"epoch", "rev", "hash", "entries"})
        await self._pass_on((await self.router.post("/control/table", body))["acks"])

    async def _pass_on(self, acks: list[dict[str, Any]]) -> None:
        for made in acks:
            level = self.level if self.loads else AckLevel.DISK
            ack = Ack.model_validate(made).model_copy(update={"level": level})
            await self.send(ack)
            if ack.state is AckState.FLIPPED and ack.release is not None:
                await self.send(ack.model_copy(update={"state": AckState.PROVEN}))


class RunningGateway:
    """A gateway in this process, and a caller of it."""

    def __init__(self, deck: Deck, folder: Path, name: str) -> None:
        self.port = free_port()
        self.member = Member(deck, folder, name, listen=f"127.0.0.1:{self.port}")
        self.config = self.member.config
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
