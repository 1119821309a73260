"""The links to all hubs of this agent, of which one steers the node: the one that `rules.moves.steering` chooses.

A link is kept to each hub, so that one which takes over is heard as soon as it says so. What the others send is passed
over: whatever they say of the table counts for nothing here, and what this node says goes to the one that it follows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from pydantic import BaseModel

from loradeck.client.backoff import Backoff
from loradeck.rules.moves.steering import Offer, steering
from loradeck.schemas.link import Bookmark, Desired, DownMessage, Hello, Welcome
from loradeck.schemas.replica_state import NOT_ACTIVE
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.login import Login
from loradeck_agent.uplink.link import Link, LinkStatus

log = logging.getLogger(__name__)


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

    async def send(self, message: BaseModel) -> bool:
        """Sends one message to the hub that is followed. False: there is none, and the message is not kept."""
        return self._present is not None and await self._links[self._present].send(message)

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
