"""Nodes that prove that they have seen moves which the log lacks: what waits for a recover, and what goes on.

Such a node is asked for its table at once, and the hub begins an epoch above all that it has seen. Its entries that the
log lacks hold back their own pointers and forward moves until somebody recovers. They outlive a restart, and go back to
the node as they are, so that it follows the log in everything else: R works there on every other pointer.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from loradeck.hub.fleet.node import Node, NodeLink
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.log import Log
from loradeck.hub.log.runtime import Background, StoreThread, calling
from loradeck.hub.recovery.startup import Startup
from loradeck.rules.moves import witness as rules
from loradeck.rules.moves.recover import newest
from loradeck.schemas.ids import PointerKey, Wire
from loradeck.schemas.link import TableAsk, TableState
from loradeck.schemas.log import EventKind
from loradeck.schemas.table import EntryOnWire, TableEntry
from loradeck.store.interface import StoreError
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.recovery.witnesses")

AHEAD = "log_ahead"
"""The store's key for the nodes that are ahead of the log."""

ANSWER_S = 10.0
"""How long a linked node may take to send its table, seconds."""

RETRY_S = 2.0
"""Pause before a node that is ahead is asked again, seconds."""


class Ahead(Wire):
    """A node that is ahead of the log. `entries` are those that the log lacks; None: its table is not known yet."""

    epoch: int
    rev: int
    entries: tuple[EntryOnWire, ...] | None = None


_kept = TypeAdapter(dict[str, Ahead])


@dataclass(eq=False)
class Witnesses:
    """The nodes that are ahead of the log."""

    _store: StoreThread
    _log: Log
    _fleet: Fleet
    _tables: NodeTables
    _startup: Startup
    _changes: Changes
    _background: Background
    _asked: dict[str, asyncio.Future[TableState]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.ahead: dict[str, Ahead] = _kept.validate_json(self._store.now(lambda s: s.meta(AHEAD)) or "{}")
        self.serve_on()

    # ---- what waits ----------------------------------------------------------------------------------------

    def holding(self, key: PointerKey) -> list[str]:
        """The nodes that hold a pointer back. One whose table is not known yet holds what may be placed on it."""
        if not self.ahead:
            return []
        may_hold = self._log.state.may_hold
        return sorted(
            name
            for name, ahead in self.ahead.items()
            if (
                self._fleet.nodes[name].gateway or may_hold(key, name, self._fleet.nodes[name].labels)
                if ahead.entries is None
                else any(entry.key == key for entry in ahead.entries)
            )
        )

    def unknown(self, node: str) -> bool:
        """Tells whether a node is ahead of the log, and its table is not known yet."""
        ahead = self.ahead.get(node)
        return ahead is not None and ahead.entries is None

    def waits(self, kind: EventKind, key: PointerKey | None) -> bool:
        """Tells whether an event waits for a recover."""
        held = key is not None and bool(self.holding(key))
        return rules.waits(kind, ahead=bool(self.ahead), held=held)

    # ---- found ---------------------------------------------------------------------------------------------

    def found(self, node: Node, link: NodeLink, *, epoch: int, rev: int) -> None:
        """A node has proven that it is ahead: from now on its pointers and forward moves wait, over restarts too."""
        if node.name not in self.ahead:
            self.ahead[node.name] = Ahead(epoch=epoch, rev=rev)
            self._changed(node)
        self._startup.greeted(node.name)
        if self._log.state.rev > 0:  # an empty log has nothing to go on with, and believes anybody: it only waits
            self._background.spawn(self._look(node, link))

    async def _look(self, node: Node, link: NodeLink) -> None:
        """Learns what the node has seen, and steers it in everything else; tries until it is gone or was recovered."""
        while node.link is link and node.name in self.ahead:
            try:
                await self._keep()
                async with self._log.moving:
                    await self._log.begin_epoch(above=self.ahead[node.name].epoch)
                async with asyncio.timeout(ANSWER_S):
                    table = await asyncio.shield(self.ask(node))
                known = await self.known(table.entries)
                if node.link is link and node.name in self.ahead:
                    await self._learned(node, link, table, known)
                return
            except (StoreError, TimeoutError, KeyError) as error:
                log.error("not looked at yet node=%s: %s", node.name, error or "no answer")
                await asyncio.sleep(RETRY_S)

    async def _learned(self, node: Node, link: NodeLink, table: TableState, known: rules.KnowsMove) -> None:
        genuine = self._log.signing.is_genuine if link.signed else (lambda entry: True)
        entries = rules.held_back(table.entries, self._tables.entries, known, genuine)
        before = self.ahead[node.name]
        if before.entries is not None:  # its disk was put back: what it had seen before is still to be decided on
            entries = tuple(newest([*before.entries, *entries]).values())
        if entries:
            self.ahead[node.name] = before.model_copy(update={"entries": entries})
            log.error("held back until a recover node=%s pointers=%d", node.name, len(entries))
        else:
            del self.ahead[node.name]
            node.behind = None
            log.warning("follows again node=%s: the log lacks no move that it has seen", node.name)
        await self._keep()  # before its own position is written over
        self.serve_on()
        link.steer()
        self._changed(node)

    def let_go(self) -> None:
        """Sends nodes the log's entries in place of their own from now on: a person has decided."""
        self._tables.hold({})

    async def recovered(self) -> None:
        """Forgets the nodes that were ahead of the log, so that their pointers may move again."""
        self.ahead.clear()
        await self._keep()

    def serve_on(self) -> None:
        """Sends nodes that are ahead their own entries back, where the log lacks them."""
        self._tables.hold({name: ahead.entries for name, ahead in self.ahead.items() if ahead.entries is not None})

    async def _keep(self) -> None:
        text = _kept.dump_json(self.ahead).decode()
        await self._store(lambda s: s.set_meta(AHEAD, text))

    def _changed(self, node: Node) -> None:
        self._changes.status()
        self._changes.node(node.name)
        self._changes.soon_for_all(self._tables.entries)

    # ---- tables of nodes -----------------------------------------------------------------------------------

    def ask(self, node: Node, adapters: tuple[str, ...] = ()) -> asyncio.Future[TableState]:
        """Asks a linked node for its table, and for adapters that this hub has lost."""
        waiting = self._asked.get(node.name)
        if waiting is None or waiting.done():
            waiting = self._asked[node.name] = asyncio.get_running_loop().create_future()
        assert node.link is not None
        node.link.put_message(TableAsk(adapters=adapters))
        return waiting

    def table(self, node: Node, state: TableState) -> None:
        """Gives a node's table to whoever waits for it; one that nobody asked for is dropped."""
        waiting = self._asked.pop(node.name, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(state)

    async def known(self, entries: Sequence[TableEntry]) -> rules.KnowsMove:
        """Which of the moves in nodes' tables this log knows. Reads the history of pointers that are not there now."""
        pointers = self._log.state.pointers
        moves = {(p.key, (p.moved_epoch, p.generation), p.release) for p in pointers.values()}
        known, since = rules.known_to(moves), dict[PointerKey, int]()
        for entry in entries:
            release = entry.current.id if entry.current is not None else None
            if entry.key in pointers and not known(entry.key, entry.fence, release):
                since[entry.key] = min(entry.epoch, since.get(entry.key, entry.epoch))
        for key, epoch in since.items():
            before: int | None = None
            tenant, route = key
            while page := await self._store(
                calling(Store.history, tenant=tenant, route=route, before_rev=before, limit=100)
            ):
                moves.update(move for event in page for move in rules.moves_of(event))
                if page[-1].epoch < epoch:
                    break
                before = page[-1].rev
        return rules.known_to(moves)
