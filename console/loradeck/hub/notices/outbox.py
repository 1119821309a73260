"""The outbox: notices that are written before they are given to channels, so that a hub that ends loses none.

Each channel gets its notices in the order in which they were written, one at a time. One that is not reached waits, and
everything after it with it; one that a channel refuses for good is set aside, where a person may ask for it again.
"""

import logging
from collections import deque
from collections.abc import Sequence

from loradeck.hub.log.background import Background
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.store_thread import StoreThread, calling
from loradeck.hub.notices.channels import Channels, NotGiven, give
from loradeck.rules.errors import Refused
from loradeck.rules.quality.notices import grouped, next_attempt_ms
from loradeck.schemas.ids import Name
from loradeck.schemas.notice import LONGEST, Channel, ChannelRow, Delivery, Notice
from loradeck.store.interface import StoreError
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.notices.outbox")

MOST_WAITING = 1000
"""Notices that may wait for one channel; what comes beyond is written, and not given to it."""


class Outbox:
    """What every channel has yet to be given.

    `source`: names the hub to whoever is told.
    """

    def __init__(
        self, store: StoreThread, channels: Channels, clock: Clock, background: Background, source: str
    ) -> None:
        self._store, self._clock, self._source = store, clock, source
        self._background = background
        self.channels = channels
        self._waiting: dict[Name, deque[tuple[Notice, Delivery]]] = {}
        self._dead: dict[tuple[Name, int], tuple[Notice, Delivery]] = {}
        self._given_ms: dict[Name, int] = {}
        self._busy: set[Name] = set()
        self._unwritten: list[tuple[Notice, tuple[Name, ...]]] = []
        for notice, delivery in store.now(lambda s: s.deliveries()):
            self._put(notice, delivery)

    def _put(self, notice: Notice, delivery: Delivery) -> None:
        if delivery.next_ms is None:
            self._dead[delivery.channel, delivery.seq] = (notice, delivery)
        else:
            self._waiting.setdefault(delivery.channel, deque()).append((notice, delivery))

    def tell(self, notices: Sequence[Notice]) -> None:
        """Has notices written with the next `tick`, and then given to the channels that take them.

        Channels of the same tenants get the same. Many of one kind become one, which names no tenant of others.
        """
        scopes: dict[tuple[Name, ...], list[Channel]] = {}
        for channel in self.channels.all():
            scopes.setdefault(tuple(sorted(channel.tenants)), []).append(channel)
        told: dict[str, tuple[Notice, set[Name]]] = {one.id: (one, set()) for one in notices} if not scopes else {}
        for tenants, channels in scopes.items():
            seen = [one for one in notices if not tenants or one.tenant is None or one.tenant in tenants]
            for one in grouped(seen):
                takers = {channel.name for channel in channels if channel.takes(one)}
                told.setdefault(one.id, (one, set()))[1].update(takers)
        self._unwritten += ((notice, tuple(sorted(names))) for notice, names in told.values())

    def tell_one(self, notice: Notice, name: Name) -> None:
        """Has one channel be given a notice, whatever it takes otherwise."""
        self._unwritten.append((notice, (name,)))

    async def tick(self) -> None:
        """Writes what is to be told, and goes on with every channel that is not busy; called once a second."""
        self.channels.read()
        if self._unwritten:
            await self._write()
        now = self._clock.now_ms()
        for name, waiting in self._waiting.items():
            if waiting and name not in self._busy and (waiting[0][1].next_ms or 0) <= now:
                self._busy.add(name)
                self._background.spawn(self._go_on(name))

    async def _write(self) -> None:
        notices, self._unwritten = self._unwritten, []
        bounded = [
            (notice, [name for name in names if len(self._waiting.get(name, ())) < MOST_WAITING])
            for notice, names in notices
        ]
        try:
            written = await self._store(lambda s: s.add_notices(bounded), background=True)
        except StoreError as error:
            log.error("notices are not written yet code=%s %s", error.code, error)
            self._unwritten = (notices + self._unwritten)[:MOST_WAITING]
            return
        for notice, delivery in written:
            self._put(notice, delivery)

    async def _go_on(self, name: Name) -> None:
        """Gives a channel what waits for it, until it fails or all is given."""
        waiting = self._waiting[name]
        try:
            while waiting and (waiting[0][1].next_ms or 0) <= self._clock.now_ms():
                notice, delivery = waiting.popleft()
                after = await self._attempt(notice, delivery)
                if after.error and after.next_ms is not None:
                    waiting.appendleft((notice, after))
                elif after.error:
                    self._dead[name, after.seq] = (notice, after)
                recorded = calling(Store.record_delivery, after, given=not after.error)
                await self._store(recorded, background=True)
        except StoreError as error:
            # After a restart it is given again: whoever gets it knows it by its id.
            log.error("a delivery is not written down channel=%s code=%s %s", name, error.code, error)
        finally:
            self._busy.discard(name)

    async def _attempt(self, notice: Notice, delivery: Delivery) -> Delivery:
        """Gives a notice to a channel; returns the delivery with an error if the channel did not take it."""
        channel = self.channels.get(delivery.channel)
        try:
            if channel is None:
                raise NotGiven("the file of channels has it no longer", final=True)
            await give(channel, notice, self._source)
        except NotGiven as error:
            attempts, why = delivery.attempts + 1, str(error)[:LONGEST]
            at_ms = None if error.final else next_attempt_ms(self._clock.now_ms(), attempts, notice.at_ms)
            log.warning("notice not given channel=%s id=%s attempts=%d %s", delivery.channel, notice.id, attempts, why)
            return delivery.model_copy(update={"attempts": attempts, "next_ms": at_ms, "error": why})
        self._given_ms[delivery.channel] = self._clock.now_ms()
        return delivery.model_copy(update={"error": ""})

    def again(self, name: Name) -> int:
        """Has a channel be given at once what waits for it or was set aside; returns how many that are.

        Raises: Refused `unknown_channel`.
        """
        self.known(name)
        dead = [self._dead.pop(key) for key in list(self._dead) if key[0] == name]
        now = self._clock.now_ms()
        waiting = self._waiting.setdefault(name, deque())
        due = [(notice, delivery.model_copy(update={"next_ms": now})) for notice, delivery in (*dead, *waiting)]
        waiting.clear()
        waiting.extend(sorted(due, key=lambda one: one[1].seq))
        return len(due)

    def known(self, name: Name) -> Channel:
        """A channel by its name. Raises: Refused `unknown_channel`."""
        channel = self.channels.get(name)
        if channel is None:
            raise Refused("unknown_channel", "there is no such channel", detail=name, fix="loradeck notice channels")
        return channel

    def rows(self) -> tuple[ChannelRow, ...]:
        """The channels as they are listed."""
        return tuple(self._row(channel) for channel in self.channels.all())

    def _row(self, channel: Channel) -> ChannelRow:
        waiting = self._waiting.get(channel.name, ())
        return ChannelRow(
            name=channel.name,
            kind=channel.kind,
            least=channel.least,
            tenants=channel.tenants,
            waiting=len(waiting),
            dead=self.dead(channel.name),
            given_ms=self._given_ms.get(channel.name),
            error=waiting[0][1].error if waiting else "",
        )

    def dead(self, name: Name | None = None) -> int:
        """Counts the deliveries that were given up: of one channel, or of all."""
        return sum(name is None or channel == name for channel, _ in self._dead)
