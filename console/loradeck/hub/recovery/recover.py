"""`loradeck hub recover`: a hub restored from a backup adopts the moves that its nodes have seen and its log lacks.

A node whose last (rev, hash) is not in this log has seen moves that the log lacks. From then on nothing moves, and that
node is sent no table, until somebody on the hub's host recovers: every linked node is asked for its table, the newest
entry of each pointer is appended to the log, and the epoch is raised above all that any node has seen.

A node that was away then, and comes back with what it saw before, stops nobody else: the loss is known, and a person
has decided with what to go on. Only that node is sent no table until the next recover.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from loradeck.hub.fleet.nodes import Fleet, Node
from loradeck.hub.log.background import Background
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.log import Log
from loradeck.hub.log.registry import Registry
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.recovery.startup import Startup
from loradeck.rules.errors import Refused
from loradeck.rules.moves import recover
from loradeck.rules.moves import witness as witness_rules
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.witness import Standing
from loradeck.schemas.link import Hello, TableAsk, TableState
from loradeck.schemas.release import Release
from loradeck.schemas.table import TableEntry
from loradeck.store.interface import Committed

log = logging.getLogger("loradeck.hub.recovery.recover")

BEHIND = "log_behind"
UNPROVEN = "log_unproven"
"""Problem code of a node that says it has seen more than the log, and has no signature to show for it."""

EPOCH = "recovered_epoch"
"""The store's key for the epoch of the last recover. A backup taken before one lacks it."""

ANSWER_S = 10.0
"""How long a linked node may take to send its table, seconds."""


@dataclass(eq=False)
class Recovery:
    """Whether the log lacks moves, and the recover that adopts them.

    `behind` is True while nothing moves until a recover. It outlives a restart, as does the epoch of the last recover.
    """

    _store: StoreThread
    _log: Log
    _registry: Registry
    _fleet: Fleet
    _startup: Startup
    _changes: Changes
    _background: Background
    _tables: dict[str, TableState] = field(default_factory=dict, init=False)
    _asked: set[str] = field(default_factory=set, init=False)
    _came: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        behind, epoch = self._store.now(lambda s: (s.meta(BEHIND), s.meta(EPOCH)))
        self.behind = bool(behind)
        self._epoch = int(epoch or 0)
        """The epoch of the last recover in this log; 0: there was none."""

    async def standing(self, hello: Hello) -> Standing:
        """What a node's hello says about this log."""
        signing, witness = self._log.signing, hello.witness
        return witness_rules.judge(
            epoch=hello.epoch,
            rev=hello.rev,
            has_hash=await self._log.has(hello.rev, hello.hash),
            hub_epoch=self._log.state.epoch,
            hub_rev=self._log.state.rev,
            log=signing.log,
            incarnations=signing.incarnations,
            witnessed=witness if witness is not None and signing.is_genuine(witness) else None,
        )

    def code(self, standing: Standing) -> str | None:
        """The problem code of a node with this standing; None: it is steered."""
        if standing.holds_back_moves:
            return BEHIND
        return UNPROVEN if standing is Standing.UNPROVEN else None

    def found_behind(self, node: Node, hello: Hello) -> None:
        """Refuses all moves from now on, over restarts too: this node has seen moves that the log lacks.

        A node that missed the last recover, or cannot prove what it says, is only held back itself.
        """
        missed = self._missed(hello) or node.behind == UNPROVEN
        log.error(
            "%s node=%s its_rev=%d its_epoch=%d rev=%d epoch=%d: %s until `loradeck hub recover`",
            node.behind,
            node.name,
            hello.rev,
            hello.epoch,
            self._log.state.rev,
            self._log.state.epoch,
            "it gets no table" if missed else "no moves",
        )
        if not missed and not self.behind:
            self.behind = True
            self._background.spawn(self._remember(node.name))
        self._changes.status()
        self._changes.node(node.name)

    def _missed(self, seen: Hello | TableState) -> bool:
        """Whether a node is still at an epoch from before the last recover."""
        return seen.epoch < self._epoch

    async def _remember(self, node: str) -> None:
        await self._store(lambda s: s.set_meta(BEHIND, node))

    def table(self, node: Node, state: TableState) -> None:
        """Keeps a node's table; one that nobody asked for is dropped."""
        if node.name in self._asked:
            self._tables[node.name] = state
            self._came.set()

    async def run(self, key: str, reason: str, actor: Actor, *, unproven: bool = False) -> Committed:
        """Asks all linked nodes, appends what the log lacks, and raises the epoch. The caller holds `Log.moving`.

        Nodes that cannot prove what they say are asked only if `unproven` is set; the others stay held back.

        Raises: Refused `recover_incomplete` when a linked node did not send its table: nothing was changed.
        """
        linked = [n for n in self._fleet.linked() if unproven or n.behind != UNPROVEN]
        self._tables.clear()
        self._asked = {n.name for n in linked}
        for node in linked:
            assert node.link is not None
            node.link.put_message(TableAsk())
        try:
            async with asyncio.timeout(ANSWER_S):
                while self._missing():
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            raise Refused(
                "recover_incomplete",
                "a linked node did not send its table",
                detail=", ".join(self._missing()),
                fix="look at the node, or stop its agent, and recover again; nothing was changed",
            ) from None
        finally:
            self._asked = set()
        states = sorted(self._tables.values(), key=lambda s: (s.epoch, s.rev), reverse=True)
        entries = [e for s in states for e in s.entries]
        await self._register(entries)
        # Keys and settings that people have changed since a recover are not put back by a node that missed it.
        newer = [s for s in states if not self._missed(s) and not await self._log.has(s.rev, s.hash)]
        ahead = [e for s in newer for e in s.entries]
        drafts, above = recover.drafts(
            self._log.state.pointers,
            entries,
            tenants=self._log.state.tenants,
            actor=actor,
            reason=reason,
            ahead=ahead,
        )
        above = max([above, *(s.epoch for s in states)])
        committed = await self._log.adopt(drafts, epoch_above=above, key=key)
        self._epoch = self._log.state.epoch
        await self._store(lambda s: s.set_meta(EPOCH, str(self._log.state.epoch)))
        await self._store(lambda s: s.set_meta(BEHIND, ""))
        self.behind = False
        self._startup.end("a person has recovered it")
        for node in self._fleet.nodes.values():
            if unproven or node.behind != UNPROVEN:
                node.behind = None
                if node.link is not None:
                    node.link.steer()
        self._changes.status()
        log.warning(
            "recovered events=%d epoch=%d rev=%d", len(committed.events), self._log.state.epoch, self._log.state.rev
        )
        return committed

    def _missing(self) -> list[str]:
        linked = {n.name for n in self._fleet.linked()}
        return sorted((self._asked & linked) - self._tables.keys())

    async def _register(self, entries: list[TableEntry]) -> None:
        """Registers releases that nodes serve and this registry has lost with its newest documents."""
        catalogue = self._registry.catalogue
        wanted: dict[str, Release] = {}
        for entry in entries:
            for ref in (entry.current, *entry.beneath):
                if ref is not None and ref.id not in catalogue.releases and ref.release.id == ref.id:
                    wanted[ref.id] = ref.release
        for release in wanted.values():
            await self._registry.register_release(release, "recover")
