"""The outbox: notices that are written before they are given to channels, so that a hub that ends loses none.

Each channel gets its notices in the order in which they were written, one at a time. One that is not reached waits, and
everything after it with it; one that a channel refuses for good is set aside, where a person may ask for it again.

Webhooks are CloudEvents 1.0 in JSON (cloudevents.io), signed as the Standard Webhooks specification 1.0 says
(standardwebhooks.com): HMAC-SHA256 over id, timestamp and body. Services for people are reached through Apprise.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
import tomllib
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
from pydantic import ValidationError

from loradeck.hub.log.runtime import Background, Clock, StoreThread, calling
from loradeck.rules.errors import Refused
from loradeck.rules.quality.notices import grouped, next_attempt_ms
from loradeck.schemas.address import is_loopback
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.ids import Name
from loradeck.schemas.notice import LONGEST, Channel, ChannelFile, ChannelRow, Delivery, Messenger, Notice, Webhook
from loradeck.store.interface import StoreError
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.notices.outbox")

ANSWER_S = 10.0
"""Seconds that a channel has to take a notice."""


_FINAL = frozenset({400, 410, 413, 422})
"""Answers that are about this notice, and not about who is asked at the moment."""


class NotGiven(Exception):
    """A channel did not take a notice. `final`: it never will."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class Channels:
    """The channels of a file, which is read again when it has changed.

    Attributes:
        fault: why the file cannot be used as it is now; empty: it can. The channels stay those of before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._by_name: dict[Name, Channel] = {}
        self.fault = ""
        self.read()

    def read(self) -> None:
        """Reads the file if it has changed since the last call. A fault is logged once."""
        try:
            about = self._path.stat()
            if (about.st_mtime_ns, about.st_size) == self._seen:
                return
            self._seen = (about.st_mtime_ns, about.st_size)
            if about.st_mode & 0o077:
                raise ValueError(f"others can read it, and it holds secrets: chmod 600 {self._path}")
            found = ChannelFile.model_validate(tomllib.loads(self._path.read_text(encoding="utf-8")))
        except ValidationError as error:
            fault = first_wrong(error)
        except (OSError, ValueError) as error:
            fault = str(error)
        else:
            self._by_name = {channel.name: channel for channel in found.channel}
            fault = ""
        if fault and fault != self.fault:
            log.error("channels of notices cannot be read file=%s %s", self._path, fault)
        self.fault = fault

    def all(self) -> list[Channel]:
        """The channels, in the order of the file."""
        return list(self._by_name.values())

    def get(self, name: Name) -> Channel | None:
        """A channel by its name; None: the file has it no longer."""
        return self._by_name.get(name)


def signature(key: bytes, notice_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header `webhook-signature`. `timestamp` is in seconds since 1970 UTC."""
    signed = b".".join((notice_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def cloud_event(notice: Notice, source: str) -> bytes:
    """A notice as a CloudEvent in JSON. `source` names the hub."""
    at = datetime.fromtimestamp(notice.at_ms / 1000, UTC)
    event = {
        "specversion": "1.0",
        "id": notice.id,
        "source": source,
        "type": f"loradeck.notice.{notice.kind.value}",
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": notice.model_dump(mode="json", exclude_none=True),
    }
    subject = notice.node or "/".join(filter(None, (notice.tenant, notice.route, notice.dataset)))
    return json.dumps({**event, **({"subject": subject} if subject else {})}, ensure_ascii=False).encode()


async def give(channel: Channel, notice: Notice, source: str) -> None:
    """Gives a notice to a channel. Raises: NotGiven."""
    if isinstance(channel, Webhook):
        await _post(channel, notice, cloud_event(notice, source))
    else:
        await _message(channel, notice)


async def _post(channel: Webhook, notice: Notice, body: bytes) -> None:
    url, now = channel.url.get_secret_value(), int(time.time())
    headers = {
        "content-type": "application/cloudevents+json",
        "webhook-id": notice.id,
        "webhook-timestamp": str(now),
        "webhook-signature": signature(channel.key, notice.id, now, body),
    }
    try:
        # The answer's body is never read: it may have no end.
        async with (
            httpx.AsyncClient(timeout=ANSWER_S, trust_env=not is_loopback(httpx.URL(url).host)) as http,
            http.stream("POST", url, content=body, headers=headers) as answer,
        ):
            status = answer.status_code
    except (httpx.HTTPError, OSError) as error:
        raise NotGiven(f"{type(error).__name__}: {error}".replace(url, "its address")) from None
    if not 200 <= status < 300:
        raise NotGiven(f"it answered {status}", final=status in _FINAL)


async def _message(channel: Messenger, notice: Notice) -> None:
    try:
        import apprise
    except ImportError:
        raise NotGiven("Apprise is not installed: pip install 'loradeck[notices]'") from None
    service = apprise.Apprise()
    if not service.add(channel.url.get_secret_value()):
        raise NotGiven("Apprise knows no service by this address; see its documentation for the form of it")
    kinds = {"page": apprise.NotifyType.FAILURE, "ticket": apprise.NotifyType.WARNING}
    kind = apprise.NotifyType.SUCCESS if notice.over else kinds.get(notice.severity, apprise.NotifyType.INFO)
    body = "\n".join(filter(None, (notice.detail, notice.command))) or notice.title
    told = service.async_notify(title=f"Loradeck: {notice.title}", body=body, notify_type=kind)
    try:
        taken = await asyncio.wait_for(told, ANSWER_S)
    except TimeoutError:
        raise NotGiven(f"no answer within {ANSWER_S:g} s") from None
    if not taken:
        raise NotGiven("the service did not take it; the hub's log may have more")


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
