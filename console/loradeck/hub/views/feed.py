"""`/v1/feed?since=epoch:rev&seq=n`: list, then watch. Log events and rows that just moved go at once, telemetry
once a second.

A subscriber is owed a set of rows, not a queue of messages: however slow it reads, what it costs is bounded by
the number of rows. Events cannot be left out; whoever is too far behind with them is told to list again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from loradeck.hub.access.auth import Caller, caller_of, check
from loradeck.hub.access.problems import problem_of, problem_response
from loradeck.rules.errors import Refused
from loradeck.schemas.feed import FeedReset, FeedShow, FeedStatus
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.log import Event

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub

log = logging.getLogger("loradeck.hub.views.feed")
router = APIRouter()


T = TypeVar("T")

Mark = tuple[int, int]
"""When something changed: the log's rev, and the hub's own count of changes."""

NEVER: Mark = (0, 0)

TICK_S = 1.0
STATUS_EVERY = 2
"""Ticks between statuses."""

OWED_EVENTS = 2000
"""Events a subscriber may be behind with before it has to list again."""

SLOW_S = 10.0
"""How long one message may wait for a reader that does not read."""

BATCH = 25
"""Rows put together between two turns of the event loop."""

RESET, REVOKED = 4410, 4401
"""Close codes."""


class Subscriber:
    """What one console is owed. `shown` and `shown_nodes`: what it wants telemetry of; None: of all."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.shown: frozenset[PointerKey] | None = None
        self.shown_nodes: frozenset[str] | None = None
        self.figured: tuple[list[PointerKey], list[str]] = ([], [])
        """Rows and nodes of which only figures are newer than its cursor: owed once it is known what it shows."""
        self.events: deque[Event] = deque()
        self.tenants: dict[PointerKey, None] = {}
        self.nodes: dict[str, None] = {}
        self.jobs: dict[str, None] = {}
        self.status = True
        self.reset: str | None = None
        self.wake = asyncio.Event()
        self.wake.set()

    def owe_events(self, events: Iterable[Event]) -> None:
        self.events.extend(events)
        if len(self.events) > OWED_EVENTS:
            self.reset = "too far behind with the log"
        self.wake.set()

    def owe_rows(self, keys: Iterable[PointerKey]) -> None:
        self.tenants.update(dict.fromkeys(keys))
        self.wake.set()


class Feeds:
    """All subscribers, and what has changed since the last tick."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._subscribers: set[Subscriber] = set()
        self._soon: dict[PointerKey, None] = {}
        self._soon_for_all: dict[PointerKey, None] = {}
        self._nodes: dict[str, None] = {}
        self._node_figures: dict[str, None] = {}
        self._texts: dict[PointerKey, str] = {}
        self.seq = 0
        """Grows with every change of a row or a node."""
        self._touched: dict[PointerKey, Mark] = {}
        """When a row last changed, but for its figures, for feeds that resume."""
        self._figured: dict[PointerKey, Mark] = {}
        """When a row's figures last changed."""
        self._touched_nodes: dict[str, Mark] = {}
        self._figured_nodes: dict[str, Mark] = {}
        self._ticks = 0

    @property
    def count(self) -> int:
        return len(self._subscribers)

    # ---- what changed --------------------------------------------------------------------------------------

    def events(self, events: Sequence[Event]) -> None:
        for subscriber in self._subscribers:
            subscriber.owe_events(events)

    def now(self, keys: Collection[PointerKey]) -> None:
        """Rows that moved or were acknowledged: to everybody, at once."""
        self._touch(keys, self._touched)
        for subscriber in self._subscribers:
            subscriber.owe_rows(keys)

    def soon(self, keys: Iterable[PointerKey]) -> None:
        """Rows with new telemetry: with the next tick, to those who show them."""
        keys = tuple(keys)
        self._touch(keys, self._figured)
        self._soon.update(dict.fromkeys(keys))

    def soon_for_all(self, keys: Iterable[PointerKey]) -> None:
        """Rows whose flags may have changed without a move (a node, a pin): with the next tick, to everybody."""
        keys = tuple(keys)
        self._touch(keys, self._touched)
        self._soon_for_all.update(dict.fromkeys(keys))

    def _touch(self, keys: Iterable[PointerKey], touched: dict[PointerKey, Mark]) -> None:
        mark = self._mark()
        for key in keys:
            touched[key] = mark
            self._texts.pop(key, None)

    def _mark(self) -> Mark:
        self.seq += 1
        return self._hub.ledger.rev, self.seq

    def node(self, name: str) -> None:
        """A node came, went, or holds something else: with the next tick, to everybody."""
        self._nodes[name] = None
        self._touched_nodes[name] = self._mark()

    def node_figures(self, name: str) -> None:
        """A node's new telemetry: with the next tick, to those who show it."""
        self._node_figures[name] = None
        self._figured_nodes[name] = self._mark()

    def job(self, job_id: str) -> None:
        for subscriber in self._subscribers:
            subscriber.jobs[job_id] = None
            subscriber.wake.set()

    def status(self) -> None:
        for subscriber in self._subscribers:
            subscriber.status = True
            subscriber.wake.set()

    def revoked(self, token_id: str) -> None:
        """A token was withdrawn: its feeds end."""
        for subscriber in self._subscribers:
            if subscriber.caller.token == token_id:
                subscriber.reset = "the token was withdrawn"
                subscriber.wake.set()

    async def tick(self) -> None:
        """Hand out the telemetry of the last second."""
        self._ticks += 1
        keys, for_all = tuple(self._soon), tuple(self._soon_for_all)
        nodes, figures = tuple(self._nodes), tuple(self._node_figures)
        for news in (self._soon, self._soon_for_all, self._nodes, self._node_figures):
            news.clear()
        self._texts.clear()  # ages in them have gone on
        for subscriber in self._subscribers:
            shown, shown_nodes = subscriber.shown, subscriber.shown_nodes
            missed, missed_nodes = subscriber.figured
            subscriber.figured = ([], [])
            subscriber.owe_rows(k for k in (*missed, *keys) if shown is None or k in shown)
            subscriber.owe_rows(for_all)
            subscriber.nodes.update(
                dict.fromkeys(n for n in (*missed_nodes, *figures) if shown_nodes is None or n in shown_nodes)
            )
            subscriber.nodes.update(dict.fromkeys(nodes))
            if self._ticks % STATUS_EVERY == 0:
                subscriber.status = True
            subscriber.wake.set()

    # ---- one subscriber ------------------------------------------------------------------------------------

    def subscribe(self, caller: Caller, since: str, seq: int | None = None) -> Subscriber:
        """A subscriber that is owed everything after its cursor, or a reset.

        `seq`: of the status it listed with. A rev alone cannot tell which rows have changed since it was committed,
        so without it all of these are owed.
        """
        subscriber = Subscriber(caller)
        hub = self._hub
        cursor = _cursor(since)
        epoch, rev = cursor if cursor else (0, 0)
        backlog = self._backlog(epoch, rev) if cursor else None
        if backlog is None:
            subscriber.reset = "the cursor is too old, or of another log"
        else:
            subscriber.owe_events(backlog)
            again = epoch == hub.ledger.epoch

            def newer(mark: Mark) -> bool:
                return not again or (mark[0] >= rev if seq is None else mark[1] > seq)

            subscriber.owe_rows(k for k in hub.steer.entries if newer(self._touched.get(k, NEVER)))
            subscriber.nodes = dict.fromkeys(n for n in hub.fleet.nodes if newer(self._touched_nodes.get(n, NEVER)))
            if again:
                subscriber.figured = (
                    [k for k in hub.steer.entries if newer(self._figured.get(k, NEVER))],
                    [n for n in hub.fleet.nodes if newer(self._figured_nodes.get(n, NEVER))],
                )
            subscriber.jobs = dict.fromkeys(hub.queue.recent())
        self._subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)

    def _backlog(self, epoch: int, rev: int) -> list[Event] | None:
        """Events after a cursor; None when it is of another log or older than what is kept in memory."""
        ledger, recent = self._hub.ledger, self._hub.recent
        if rev > ledger.rev or epoch > ledger.epoch or rev < 0:
            return None
        if rev == ledger.rev and (not recent or recent[-1].epoch <= epoch):
            return []
        if not recent:
            return None
        first = recent[0].rev
        if rev >= first:
            if recent[rev - first].epoch > epoch:
                return None
        elif not (rev == 0 and first == 1):
            return None
        return [e for e in recent if e.rev > rev]

    def row(self, key: PointerKey) -> str:
        """A tenant row as JSON, shared by all who are owed it."""
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = self._hub.rows.tenant(key).model_dump_json()
        return text

    async def send(self, subscriber: Subscriber, socket: WebSocket) -> None:
        """Sends what is owed until the reader has gone or has to list again."""
        hub = self._hub

        async def put(text: str) -> None:
            async with asyncio.timeout(SLOW_S):
                await socket.send({"type": "websocket.send", "text": text})

        while True:
            await subscriber.wake.wait()
            subscriber.wake.clear()
            if subscriber.reset is not None:
                await put(FeedReset(why=subscriber.reset).model_dump_json())
                return
            if subscriber.events:
                events = ",".join(e.model_dump_json() for e in subscriber.events)
                subscriber.events.clear()
                await put(f'{{"type":"events","events":[{events}]}}')
            if subscriber.status:
                subscriber.status = False
                await put(FeedStatus(status=hub.status()).model_dump_json())
            owed = [k for k in subscriber.tenants if k in hub.steer.entries]
            subscriber.tenants = {}
            for batch in _batches(owed):
                gone = [k for k in batch if not hub.is_listed(k)]
                rows = ",".join(self.row(k) for k in batch if hub.is_listed(k))
                await put(f'{{"type":"tenants","rows":[{rows}],"gone":{json.dumps(gone)}}}')
                await asyncio.sleep(0)
            names = [n for n in subscriber.nodes if n in hub.fleet.nodes]
            subscriber.nodes = {}
            for some in _batches(names):
                rows = ",".join(hub.rows.node(hub.fleet.nodes[n]).model_dump_json() for n in some)
                await put(f'{{"type":"nodes","rows":[{rows}]}}')
                await asyncio.sleep(0)
            jobs = [job for job in (hub.queue.get(j) for j in subscriber.jobs) if job is not None]
            subscriber.jobs = {}
            if jobs:
                await put(f'{{"type":"jobs","rows":[{",".join(j.model_dump_json() for j in jobs)}]}}')


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))


def _cursor(since: str) -> tuple[int, int] | None:
    epoch, colon, rev = since.partition(":")
    return (int(epoch), int(rev)) if colon and epoch.isdecimal() and rev.isdecimal() else None


async def _listen(subscriber: Subscriber, socket: WebSocket) -> None:
    """Takes in which rows a console shows.

    Raises: WebSocketDisconnect.
    """
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        try:
            show = FeedShow.model_validate_json(message.get("text") or message.get("bytes") or b"")
        except ValidationError:
            subscriber.reset = "a message that is no 'show'"
            subscriber.wake.set()
            continue
        before_nodes = subscriber.shown_nodes or frozenset()
        subscriber.shown_nodes = None if show.nodes is None else frozenset(show.nodes)
        if subscriber.shown_nodes is not None:
            subscriber.nodes.update(dict.fromkeys(subscriber.shown_nodes - before_nodes))
            subscriber.wake.set()
        if show.rows is None:
            subscriber.shown = None
        else:
            keys = (row.partition("/") for row in show.rows)
            before = subscriber.shown or frozenset()
            subscriber.shown = frozenset((tenant, route) for tenant, _, route in keys)
            subscriber.owe_rows(subscriber.shown - before)


@router.websocket("/v1/feed")
async def feed(socket: WebSocket, since: str = "", seq: int | None = None) -> None:
    hub: Hub = socket.app.state.hub
    try:
        caller = check(caller_of(socket, hub.tokens), Role.VIEWER)
    except Refused as refused:
        await socket.send_denial_response(problem_response(problem_of(refused)))
        return
    await socket.accept()
    subscriber = hub.feeds.subscribe(caller, since, seq)
    reader = asyncio.ensure_future(_listen(subscriber, socket))
    writer = asyncio.ensure_future(hub.feeds.send(subscriber, socket))
    try:
        await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        error = writer.exception() if writer.done() and not writer.cancelled() else None
        if isinstance(error, TimeoutError):
            log.warning("feed too slow actor=%s: disconnected", caller.actor)
            hub.metrics.feed_resets.inc()
        elif error is not None and not isinstance(error, WebSocketDisconnect):
            log.error("feed failed actor=%s", caller.actor, exc_info=error)
        elif writer.done():
            hub.metrics.feed_resets.inc()
            await socket.close(RESET, subscriber.reset or "")
    finally:
        hub.feeds.unsubscribe(subscriber)
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)
