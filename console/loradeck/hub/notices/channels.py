"""The channels of a hub's file, and how a notice is given to each.

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
from datetime import UTC, datetime
from pathlib import Path

import httpx
from pydantic import ValidationError

from loradeck.schemas.address import is_loopback
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.ids import Name
from loradeck.schemas.notice import Channel, ChannelFile, Messenger, Notice, Webhook

log = logging.getLogger("loradeck.hub.notices.channels")

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
