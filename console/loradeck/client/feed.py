"""The feed follower: lists the hub's state, then watches it, and reports how the link is.

    async with contextlib.aclosing(Feed(context).follow()) as items:
        async for item in items:
            match item: ...

Items are `LinkChange` (the link came up, was lost, waits), `Listed` (everything, after each connect: replace all
rows by it), and feed messages in the hub's order. The follower never ends by itself; it reconnects with
full-jitter back-off, and lists again each time, because rows that changed meanwhile are not in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from loradeck.client.backoff import Backoff
from loradeck.client.config import Context
from loradeck.client.connect import Endpoint, Hubs, websocket
from loradeck.client.errors import ApiError, ClientError, not_understood
from loradeck.client.state_list import Listed
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.feed import FeedMessage, FeedReset, FeedShow, feed_adapter
from loradeck.schemas.state import HubState

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

SILENCE_S = 6.0
"""Seconds of silence after which a link counts as lost; the hub sends its status every two seconds."""

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0
TURN_WAIT_S = 0.5
"""The longest pause where there are several hubs, and the next one to be asked may be active already."""


class FeedLink(StrEnum):
    """State of the link to the hub."""

    CONNECTING = "connecting"  # the first attempt, nothing shown yet
    UP = "up"  # listed, and watching
    LOST = "lost"  # was up or never came up; retrying
    REFUSED = "refused"  # the hub answers and refuses the token; retrying


@dataclass(frozen=True, kw_only=True)
class LinkChange:
    """The link's state from `at` on (time.monotonic seconds). `why` and `fix` are for people."""

    state: FeedLink
    at: float
    why: str = ""
    fix: str = ""


FeedItem = LinkChange | Listed | HubState | FeedMessage
"""An item that `Feed.follow` yields."""


class Feed:
    """Follows one hub's feed."""

    def __init__(
        self,
        context: Context,
        *,
        backoff: Backoff | None = None,
        silence_s: float = SILENCE_S,
        show: FeedShow | None = None,
        hubs: Hubs | None = None,
    ) -> None:
        """Prepares a follower without connecting.

        `show`: rows and nodes that are on the screen until `show` is called; None asks the hub for all of them.
        `hubs`: those of the context, shared with whoever calls them.
        """
        self.context = context
        self._hubs = hubs or Hubs(context)
        self.link = FeedLink.CONNECTING
        self._backoff = backoff or Backoff(FIRST_WAIT_S, TURN_WAIT_S if self._hubs.several else LONGEST_WAIT_S)
        self._silence_s = silence_s
        self._connection: ClientConnection | None = None
        self._wanted = show

    async def show(self, rows: tuple[str, ...] | None, nodes: tuple[str, ...] | None = None) -> None:
        """Asks for these rows ('tenant/route') and nodes only, None for all. Kept over reconnects."""
        self._wanted = FeedShow(rows=rows, nodes=nodes)
        if self._connection is not None:
            # A link that has just broken is no error here: the next one gets the request on connecting.
            with contextlib.suppress(ConnectionClosed):
                await self._send_wanted(self._connection)

    async def follow(self) -> AsyncGenerator[FeedItem]:
        """Yields items for ever. Close the generator to close the link."""
        yield self._changed(FeedLink.CONNECTING)
        waits = self._backoff.pauses()
        while True:
            began = time.monotonic()
            lost: LinkChange | None = None
            asked, named = self._hubs.asked, None
            try:
                # A new connection each time, with the token file read again.
                async with contextlib.aclosing(self._session(self._hubs.endpoint())) as session:
                    async for item in session:
                        yield item
            except ApiError as error:
                named = error.active
                state = FeedLink.REFUSED if error.problem.status in (401, 403) else FeedLink.LOST
                lost = self._changed(state, why=error.title, fix=error.fix)
            except ClientError as error:
                lost = self._changed(
                    FeedLink.LOST, why=f"{error.title.partition(';')[0]} ({error.detail})", fix=error.fix
                )
            except TimeoutError:
                lost = self._changed(FeedLink.LOST, why=f"nothing heard for {self._silence_s:g} s")
            except (OSError, WebSocketException) as error:
                lost = self._changed(FeedLink.LOST, why=f"the link broke ({type(error).__name__}: {error})")
            if time.monotonic() - began > LONGEST_WAIT_S:
                waits = self._backoff.pauses()
            if lost is not None:
                self._hubs.turn_from(asked, named)
                yield lost
            await asyncio.sleep(next(waits))

    async def _session(self, point: Endpoint) -> AsyncGenerator[FeedItem]:
        """Runs one connection: the list, then messages. Ends when the hub asks to list again."""
        from loradeck.client.api import HubApi
        from loradeck.client.transport import Transport, refusal

        async with HubApi(Transport(point)) as api:
            listed = await api.listed()
        cursor = f"{listed.status.epoch}:{listed.status.rev}&seq={listed.status.seq}"
        try:
            async with websocket(point, f"/v1/feed?since={cursor}") as connection:
                self._connection = connection
                if self._wanted is not None:
                    await self._send_wanted(connection)
                yield self._changed(FeedLink.UP)
                yield listed
                del listed  # many megabytes
                while True:
                    async with asyncio.timeout(self._silence_s):
                        data = await connection.recv(decode=False)
                    message = _parsed(data, point.where)
                    if isinstance(message, FeedReset):
                        return
                    if message is not None:
                        yield message
        except InvalidStatus as error:
            answer = error.response
            raise refusal(
                answer.status_code, answer.headers.get("content-type", ""), bytes(answer.body or b""), where=point.where
            ) from None
        finally:
            self._connection = None

    async def _send_wanted(self, connection: ClientConnection) -> None:
        assert self._wanted is not None
        await connection.send(self._wanted.model_dump_json())

    def _changed(self, state: FeedLink, *, why: str = "", fix: str = "") -> LinkChange:
        self.link = state
        return LinkChange(state=state, at=time.monotonic(), why=why, fix=fix)


def _parsed(data: bytes, where: str) -> FeedMessage | None:
    """Parses a message; None for a kind that this console is too old to know."""
    try:
        return feed_adapter.validate_json(data)
    except ValidationError as error:
        if error.errors(include_input=False, include_url=False)[0]["type"] == "union_tag_invalid":
            return None
        raise not_understood("a message of the hub", where, first_wrong(error)) from None
