"""The feed of one console: list, then watch. Log events and rows that just moved are sent at once, telemetry once a
second, and of what tenants share no more than its caller sees.

`/v1/feed?since=epoch:rev&seq=n` goes on from a cursor: the rev that the console listed at, and the number of changes.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from loradeck.hub.access.auth import Caller
from loradeck.hub.data.lineage import Lineage
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.jobs.job_records import JobRecords
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.changes import NEVER, Changes, Mark, Subscriber
from loradeck.hub.log.log import Log
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.views.rows import Rows
from loradeck.schemas.feed import FeedReset, FeedShow, FeedStatus
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.responses import BaseEntry
from loradeck.schemas.state import HubStatus, Me, NodeReplica, NodeRow


@dataclass(eq=False)
class Seen:
    """Cuts what tenants share to what a caller sees. Callers who see all tenants get everything, at no cost."""

    _catalogue: Catalogue
    _attestations: Attestations
    _lineage: Lineage
    _fleet: Fleet
    _tables: NodeTables
    _replicas: PlacedReplicas
    _rows: Rows

    def me(self, caller: Caller) -> Me:
        """The caller, with its role at each tenant that it sees."""
        tenants = None if caller.tenants is None else dict(caller.tenants)
        return Me(actor=caller.actor, role=caller.role, local=caller.local, tenants=tenants, backward=caller.backward)

    def bases(self, caller: Caller) -> Collection[str]:
        """The bases that are for all tenants, or for one that the caller sees."""
        bases = self._catalogue.bases
        if caller.tenants is None:
            return bases
        return [base for base in bases if not (own := self._lineage.owners(base)) or any(map(caller.sees, own))]

    def base(self, caller: Caller, digest: str) -> BaseEntry:
        """A base with its owners and its lineage, as far as they are of tenants that the caller sees."""
        made = self._attestations.facts.made.get(digest, ())
        return BaseEntry(
            digest=digest,
            label=self._catalogue.base_label(digest),
            manifest=self._catalogue.bases[digest],
            tenants=tuple(sorted(filter(caller.sees, self._lineage.owners(digest)))),
            made=tuple(one for one in made if caller.sees(one.tenant)),
        )

    def node_names(self, caller: Caller) -> Collection[str]:
        """The nodes on which a pointer is placed that the caller sees."""
        if caller.tenants is None:
            return self._fleet.nodes
        keys = [key for key in self._tables.entries if caller.sees(key[0])]
        return {node.name for key in keys for node, _ in self._replicas.placed(key)}

    def node(self, caller: Caller, name: str) -> NodeRow:
        """The row of a node, without the releases, pins and alarms of tenants that the caller does not see."""
        row = self._rows.node(self._fleet.nodes[name])
        if caller.tenants is None:
            return row
        pins = tuple(pin for pin in row.pins if caller.sees(pin.tenant))
        replicas = tuple(self._replica(caller, replica) for replica in row.replicas)
        return row.model_copy(update={"pins": pins, "replicas": replicas})

    def _replica(self, caller: Caller, replica: NodeReplica) -> NodeReplica:
        releases = self._catalogue.releases
        loaded = tuple(v for v in replica.loaded if v.id in releases and caller.sees(releases[v.id].tenant))
        return replica.model_copy(update={"loaded": loaded, "alarm": ""})  # an alarm may name anybody's release


T = TypeVar("T")

TICK_S = 1.0
"""Seconds between two deliveries of telemetry."""

SLOW_S = 10.0
"""How long one message may wait for a reader that does not read, seconds."""

LONGEST_NUMBER = 20
"""Digits of a number that no log reaches."""

BATCH = 25
"""Rows serialised between two turns of the event loop."""


@dataclass(eq=False, kw_only=True)
class Feed:
    """Sends subscribers what they are owed."""

    log: Log
    changes: Changes
    tables: NodeTables
    fleet: Fleet
    jobs: JobRecords
    rows: Rows
    seen: Seen
    status: Callable[[], HubStatus]

    def subscribe(self, caller: Caller, since: str, seq: int | None = None) -> Subscriber:
        """A subscriber that is owed everything after its cursor, or a reset.

        `seq` is that of the status it listed with. A rev alone cannot tell which rows have changed since it was
        committed, so without a `seq` all of these are owed.
        """
        subscriber, changes = Subscriber(caller), self.changes
        cursor = _cursor(since)
        epoch, rev = cursor if cursor else (0, 0)
        backlog = self.log.since(epoch, rev) if cursor else None
        if backlog is None:
            subscriber.reset = "the cursor is too old, or of another log"
        else:
            subscriber.owe_events(event for event in backlog if event.is_listed)
            again = epoch == self.log.state.epoch

            def newer(mark: Mark) -> bool:
                return not again or (mark[0] >= rev if seq is None else mark[1] > seq)

            entries, nodes = self.tables.entries, self.fleet.nodes
            subscriber.owe_rows(k for k in entries if newer(changes.touched.get(k, NEVER)))
            known = dict.fromkeys((*nodes, *changes.touched_nodes))  # forgotten ones too
            subscriber.nodes = dict.fromkeys(n for n in known if newer(changes.touched_nodes.get(n, NEVER)))
            if again:
                subscriber.figured = (
                    dict.fromkeys(k for k in entries if newer(changes.figured.get(k, NEVER))),
                    dict.fromkeys(n for n in nodes if newer(changes.figured_nodes.get(n, NEVER))),
                )
            subscriber.jobs = dict.fromkeys(job.id for job in self.jobs.newest())
        changes.subscribers.add(subscriber)
        return subscriber

    def is_listed(self, key: PointerKey) -> bool:
        """Tells whether consoles list a pointer: not those of offboarded tenants."""
        return key in self.tables.entries and not self.log.state.tenants[key[0]].offboarded

    def row(self, key: PointerKey) -> str:
        """A tenant row as JSON, shared by all who are owed it."""
        text = self.changes.texts.get(key)
        if text is None:
            text = self.changes.texts[key] = self.rows.tenant(key).model_dump_json()
        return text

    async def send(self, subscriber: Subscriber, socket: WebSocket) -> None:
        """Sends what is owed until the reader has gone or has to list again.

        Raises: TimeoutError: the reader does not read.
        """

        async def put(text: str) -> None:
            async with asyncio.timeout(SLOW_S):
                await socket.send({"type": "websocket.send", "text": text})

        caller = subscriber.caller
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
                await put(FeedStatus(status=self.status()).model_dump_json())
            owed = [k for k in subscriber.tenants if k in self.tables.entries]
            subscriber.tenants = {}
            for batch in _batches(owed):
                gone = [k for k in batch if not self.is_listed(k)]
                rows = ",".join(self.row(k) for k in batch if self.is_listed(k))
                await put(f'{{"type":"tenants","rows":[{rows}],"gone":{json.dumps(gone)}}}')
                await asyncio.sleep(0)
            names = list(subscriber.nodes)
            subscriber.nodes = {}
            nodes = self.seen.node_names(caller) if names else ()
            if caller.tenants is not None:
                names = [n for n in names if n in nodes or n in subscriber.sent_nodes]
                subscriber.sent_nodes.update(names)
            for some in _batches(names):
                forgotten = [n for n in some if n not in nodes]
                rows = ",".join(self.seen.node(caller, n).model_dump_json() for n in some if n in nodes)
                await put(f'{{"type":"nodes","rows":[{rows}],"gone":{json.dumps(forgotten)}}}')
                await asyncio.sleep(0)
            jobs = [job for job in (self.jobs.get(j) for j in subscriber.jobs) if job is not None]
            subscriber.jobs = {}
            jobs = [job for job in jobs if caller.sees(job.tenant)]
            if jobs:
                await put(f'{{"type":"jobs","rows":[{",".join(j.model_dump_json() for j in jobs)}]}}')


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))


def _cursor(since: str) -> tuple[int, int] | None:
    epoch, colon, rev = since.partition(":")
    fits = colon and all(part.isdecimal() and len(part) < LONGEST_NUMBER for part in (epoch, rev))
    return (int(epoch), int(rev)) if fits else None


async def listen(subscriber: Subscriber, socket: WebSocket) -> None:
    """Keeps which rows a console shows, by its messages. Raises: WebSocketDisconnect."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        try:
            show = FeedShow.model_validate_json(message.get("text") or message.get("bytes") or b"")
        except ValidationError:
            subscriber.end("a message that is no 'show'")
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
