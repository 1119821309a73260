"""A node that joins a hub of this process, with the agent's own parts: identity, login, link and calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.fleets.linked.agent import Agent
from tests.fleets.linked.hub import Deck
from tests.fleets.waiting import until

from loradeck.client.backoff import Backoff
from loradeck.schemas.link import Countersign, Desired, DownMessage, Hello, Replica, TrustRoots, Welcome
from loradeck.schemas.log import GENESIS
from loradeck_agent.host.config import AgentConfig, RouterConfig
from loradeck_agent.host.identity import Cosigner, HubLogin, Identity
from loradeck_agent.uplink.hub_api import HubApi
from loradeck_agent.uplink.link import Link
from loradeck_agent.uplink.membership import Renewal, join


class Member(Agent):
    """A node's side of the hub, without an engine. It never says to have seen anything of the log.

    `port`: where it takes the hub to listen. `listen`: where its router would.
    """

    replicas: tuple[Replica, ...] = ()
    address = ""

    def __init__(
        self, deck: Deck, folder: Path, node: str = "n1", port: int | None = None, listen: str = "127.0.0.1:1"
    ) -> None:
        super().__init__(node)
        self.deck = deck
        self.config = AgentConfig(
            node=node,
            hub=f"https://127.0.0.1:{port or deck.nodes_port}",
            token=folder / f"{node}.token",
            state=folder / node,
            router=RouterConfig(listen=listen),
        )
        self.identity = Identity(self.config.state)
        self.login = HubLogin(self.config)
        self.hub = HubApi(self.config, self.login.now)
        self.renewal = Renewal(self.identity, self.hub)
        self.cosigner = Cosigner(self.identity)
        self.hubs: tuple[str, ...] = ()
        self._link: Link | None = None

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
            return self.hello()

        async def changed(_: bool) -> None:
            pass

        backoff = Backoff(0.05, 0.2)
        self._link = Link(self.config, self.login.now, hello=hello, handle=self.take, changed=changed, backoff=backoff)
        return self._link

    def hello(self) -> Hello:
        nothing = {"epoch": 0, "rev": 0, "hash": GENESIS, "witness": None}
        says = {"node": self.config.node, "replicas": self.replicas, "address": self.address}
        return super().hello().model_copy(update={**nothing, **says, "cosigned": self.cosigner.newest()})

    async def send(self, message: Any) -> None:
        assert self._link is not None
        await self._link.send(message)

    async def take(self, message: DownMessage) -> None:
        await super().take(message)
        if isinstance(message, TrustRoots):
            self.renewal.told(message.roots)
        if isinstance(message, Welcome):
            self.hubs = message.keys
        if isinstance(message, Countersign):
            answer = self.cosigner.countersign(message, self.hubs)
            assert answer is not None
            await self.send(answer)

    async def _desired(self, message: Desired) -> None:
        """It has nothing to serve with."""
