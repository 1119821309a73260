"""Changes of rows, nodes, jobs and the hub's status, for the consoles that watch.

A subscriber is owed a set of rows, not a queue of messages: however slowly it reads, its cost is bounded by the number
of rows. Only events cannot be left out; a subscriber that is too far behind with them has to list again.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Hashable, Iterable
from typing import TypeVar

from loradeck.hub.access.auth import Caller
from loradeck.hub.log.log import Published
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.attestation import Attestation
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Event

T = TypeVar("T", bound=Hashable)

Mark = tuple[int, int]
"""When something changed: the log's rev, and the number of the change."""

NEVER: Mark = (0, 0)

STATUS_EVERY = 2
"""Ticks between two statuses."""

OWED_EVENTS = 2000
"""Events that a subscriber may be behind with before it has to list again."""


class Subscriber:
    """The rows, nodes, jobs and events that one console is owed.

    `shown` and `shown_nodes` are the rows whose telemetry it wants; None: of all rows.
    """

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.shown: frozenset[PointerKey] | None = None
        self.shown_nodes: frozenset[str] | None = None
        self.figured: tuple[dict[PointerKey, None], dict[str, None]] = ({}, {})
        """Rows and nodes of which only figures are newer than its cursor: owed once it is known what it shows."""
        self.events: deque[Event] = deque()
        self.tenants: dict[PointerKey, None] = {}
        self.nodes: dict[str, None] = {}
        self.jobs: dict[str, None] = {}
        self.status = True
        self.reset: str | None = None
        self.sent_nodes: set[str] = set()
        """Nodes that a caller who does not see all was sent."""
        self.wake = asyncio.Event()
        self.wake.set()

    def owe_events(self, events: Iterable[Event]) -> None:
        """Adds events that the caller sees; too many of them at once become a reset."""
        if self.caller.tenants is not None:
            events = [event for event in events if self.caller.sees(event.tenant)]
        self.events.extend(events)
        if len(self.events) > OWED_EVENTS:
            self.reset = "too far behind with the log"
        self.wake.set()

    def owe_rows(self, keys: Iterable[PointerKey]) -> None:
        """Adds tenant rows that the caller sees."""
        if self.caller.tenants is not None:
            keys = [key for key in keys if self.caller.sees(key[0])]
        self.tenants.update(dict.fromkeys(keys))
        self.wake.set()

    def end(self, why: str) -> None:
        """Ends the subscription; the console has to list again."""
        self.reset = why
        self.wake.set()


class Changes:
    """When every row and node last changed, and which subscribers are owed it."""

    def __init__(self, state: FoldedLog) -> None:
        self._state = state
        self.subscribers: set[Subscriber] = set()
        self.texts: dict[PointerKey, str] = {}
        """Tenant rows as JSON, shared by all who are owed them. A change drops the row's text."""
        self.seq = 0
        """Grows with every change of a row or a node."""
        self.touched: dict[PointerKey, Mark] = {}
        """When a row last changed, except for its figures."""
        self.figured: dict[PointerKey, Mark] = {}
        """When a row's figures last changed."""
        self.touched_nodes: dict[str, Mark] = {}
        self.figured_nodes: dict[str, Mark] = {}
        self._soon: dict[PointerKey, None] = {}
        self._soon_for_all: dict[PointerKey, None] = {}
        self._nodes: dict[str, None] = {}
        self._node_figures: dict[str, None] = {}
        self._ticks = 0

    # ---- what changed --------------------------------------------------------------------------------------

    def committed(self, published: Published) -> None:
        """Sends events and the rows they concern to everybody at once; a follower of the log."""
        listed = [event for event in published.events if event.is_listed]
        for subscriber in self.subscribers:
            subscriber.owe_events(listed)
        self.now(published.touched)

    def attested(self, _: Attestation, keys: Collection[PointerKey]) -> None:
        """Sends the rows that an attestation concerns to everybody at once."""
        self.now(keys)

    def now(self, keys: Collection[PointerKey]) -> None:
        """Sends rows that moved or were acknowledged to everybody at once."""
        self._touch(keys, self.touched)
        for subscriber in self.subscribers:
            subscriber.owe_rows(keys)

    def soon(self, keys: Iterable[PointerKey]) -> None:
        """Sends rows with new telemetry to those who show them, with the next tick."""
        keys = tuple(keys)
        self._touch(keys, self.figured)
        self._soon.update(dict.fromkeys(keys))

    def soon_for_all(self, keys: Iterable[PointerKey]) -> None:
        """Sends rows whose flags may have changed without a move to everybody, with the next tick."""
        keys = tuple(keys)
        self._touch(keys, self.touched)
        self._soon_for_all.update(dict.fromkeys(keys))

    def _touch(self, keys: Iterable[PointerKey], touched: dict[PointerKey, Mark]) -> None:
        mark = self._mark()
        for key in keys:
            touched[key] = mark
            self.texts.pop(key, None)

    def _mark(self) -> Mark:
        self.seq += 1
        return self._state.rev, self.seq

    def node(self, name: str) -> None:
        """Sends a node that linked, left, or holds something else to everybody, with the next tick."""
        self._nodes[name] = None
        self.touched_nodes[name] = self._mark()

    def node_figures(self, name: str) -> None:
        """Sends a node's new telemetry to those who show it, with the next tick."""
        self._node_figures[name] = None
        self.figured_nodes[name] = self._mark()

    def job(self, job_id: str) -> None:
        """Sends a job to everybody at once."""
        for subscriber in self.subscribers:
            subscriber.jobs[job_id] = None
            subscriber.wake.set()

    def status(self) -> None:
        """Sends the hub's status to everybody at once."""
        for subscriber in self.subscribers:
            subscriber.status = True
            subscriber.wake.set()

    def revoked(self, token_id: str) -> None:
        """Ends the subscriptions that were opened with a token which was withdrawn."""
        for subscriber in self.subscribers:
            if subscriber.caller.token == token_id:
                subscriber.end("the token was withdrawn")

    async def tick(self) -> None:
        """Hands out the telemetry of the last second."""
        self._ticks += 1
        rows, for_all, nodes, figures = self._soon, self._soon_for_all, self._nodes, self._node_figures
        self._soon, self._soon_for_all, self._nodes, self._node_figures = {}, {}, {}, {}
        self.texts.clear()  # ages in them have gone on
        for subscriber in self.subscribers:
            missed, missed_nodes = subscriber.figured
            subscriber.figured = ({}, {})
            for some in (missed, rows):
                subscriber.owe_rows(_on_screen(some, subscriber.shown))
            subscriber.owe_rows(for_all)
            for some_nodes in (missed_nodes, figures):
                subscriber.nodes.update(_on_screen(some_nodes, subscriber.shown_nodes))
            subscriber.nodes.update(nodes)
            if self._ticks % STATUS_EVERY == 0:
                subscriber.status = True
            subscriber.wake.set()


def _on_screen(news: dict[T, None], shown: frozenset[T] | None) -> dict[T, None]:
    """Keeps of the news what a console shows. A screen is small, so its rows are what is gone through."""
    return news if shown is None else {one: None for one in shown if one in news}
