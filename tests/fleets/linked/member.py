"""A node that joins a hub of this process, with the agent's own parts: identity, login, link and calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fleets.linked.hub import Deck
from tests.fleets.waiting import until

from loradeck.client.backoff import Backoff
from loradeck.schemas.link import Countersign, DownMessage, Hello, TrustRoots, Welcome
from loradeck.schemas.log import GENESIS
from loradeck_agent.host.config import AgentConfig, RouterConfig
from loradeck_agent.host.identity import Cosigner, HubLogin, Identity
from loradeck_agent.uplink.hub_api import HubApi
from loradeck_agent.uplink.link import Link
from loradeck_agent.uplink.membership import Renewal, join


class Member:
    """A node's side of the hub. `port`: where it takes the hub to listen."""

    def __init__(self, deck: Deck, folder: Path, node: str = "n1", port: int | None = None) -> None:
        self.deck = deck
        self.config = AgentConfig(
            node=node,
            hub=f"https://127.0.0.1:{port or deck.nodes_port}",
            token=folder / f"{node}.token",
            state=folder / node,
            router=RouterConfig(listen="127.0.0.1:1"),
        )
        self.identity = Identity(self.config.state)
        self.login = HubLogin(self.config)
        self.hub = HubApi(self.config, self.login.now)
        self.renewal = Renewal(self.identity, self.hub)
        self.cosigner = Cosigner(self.identity)
        self.hubs: tuple[str, ...] = ()
        self.received: list[DownMessage] = []

    async def invited(self, **more: object) -> str:
        """A join token for this node, as `loradeck node token` makes one."""
        made = await self.deck.ok("POST", "join-tokens", {"node": self.config.node, **more})
        return str(made["token"])

    async def join(self, token: str | None = None) -> None:
        self.config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        await join(self.config, token or await self.invited())

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[Link]:
        """Its link, once the hub has welcomed it."""
        link = self.link()
        task = asyncio.create_task(link.run())
        try:
            await until(lambda: link.connected, "linked")
            yield link
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def link(self) -> Link:
        async def hello() -> Hello:
            node = self.config.node
            said = self.cosigner.newest()
            return Hello(
                node=node, boot="b", version="0", epoch=0, rev=0, hash=GENESIS, replicas=(), protocol=2, cosigned=said
            )

        async def handle(message: DownMessage) -> None:
            self.received.append(message)
            if isinstance(message, TrustRoots):
                self.renewal.told(message.roots)
            if isinstance(message, Welcome):
                self.hubs = message.keys
            if isinstance(message, Countersign):
                answer = self.cosigner.countersign(message, self.hubs)
                assert answer is not None
                await link.send(answer)

        async def changed(_: bool) -> None:
            pass

        link = Link(
            self.config, self.login.now, hello=hello, handle=handle, changed=changed, backoff=Backoff(0.05, 0.2)
        )
        return link
