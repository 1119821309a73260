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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

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
from loradeck.schemas.ids import PointerKey, Role, short
from loradeck.schemas.link import Hello, TableAsk, TableState
from loradeck.schemas.log import Draft, Event
from loradeck.schemas.moves import RecoveryNode, RecoveryPlan
from loradeck.schemas.release import Release
from loradeck.schemas.table import TableEntry
from loradeck.store.interface import Committed, Store

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
    _asked: dict[str, asyncio.Future[TableState]] = field(default_factory=dict, init=False)

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
        """Gives a node's table to whoever waits for it; one that nobody asked for is dropped."""
        waiting = self._asked.pop(node.name, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(state)

    # ---- the plan ------------------------------------------------------------------------------------------

    async def plan(self, *, unproven: bool) -> RecoveryPlan:
        """Asks all linked nodes for their tables, and says what a recover would append. Changes nothing."""
        tables = await self._gather(unproven)
        return (await self._drafted(tables, Actor(name="", role=Role.VIEWER), "", unproven=unproven))[1]

    async def run(self, key: str, reason: str, actor: Actor, *, plan: str | None, unproven: bool) -> Committed:
        """Appends what the plan says, and raises the epoch.

        Nodes that cannot prove what they say are believed only if `unproven` is set. These, and nodes that did not
        answer, stay held back: each alone, until the next recover.

        Raises: Refused `plan_required`, `plan_changed`: nothing was changed.
        """
        if plan is None:
            raise Refused("plan_required", "a recover sends back the digest of its plan", fix="ask for the plan first")
        tables = await self._gather(unproven)
        async with self._log.moving:
            events, found = await self._drafted(tables, actor, reason, unproven=unproven)
            if found.digest != plan:
                raise Refused(
                    "plan_changed",
                    "a recover would now do something else than was planned",
                    detail=f"plan {short(plan)}, now {short(found.digest)}; nothing was changed",
                    fix="look at the plan again",
                    context={"plan": found.model_dump(mode="json")},
                )
            await self._register([entry for state in tables.values() for entry in state.entries])
            committed = await self._log.adopt(events, epoch_above=found.epoch_above, key=key)
            await self._recovered(tables)
        log.warning("recovered events=%d epoch=%d rev=%d", len(committed.events), self._epoch, self._log.state.rev)
        return committed

    async def _recovered(self, tables: Mapping[str, TableState]) -> None:
        """Makes moves again, and steers the nodes whose tables were taken into account."""
        self._epoch = self._log.state.epoch
        await self._store(lambda s: s.set_meta(EPOCH, str(self._epoch)))
        await self._store(lambda s: s.set_meta(BEHIND, ""))
        self.behind = False
        self._startup.end("a person has recovered it")
        for name in tables:
            node = self._fleet.nodes[name]
            node.behind = None
            if node.link is not None:
                node.link.steer()
        self._changes.status()

    async def _gather(self, unproven: bool) -> dict[str, TableState]:
        """The tables of the linked nodes that are believed, by node, the newest first; silent nodes are missing."""
        nodes = [node for node in self._fleet.linked() if unproven or node.behind != UNPROVEN]
        waiting = {node.name: self._ask(node) for node in nodes}
        if waiting:
            await asyncio.wait(waiting.values(), timeout=ANSWER_S)
        tables = {name: table.result() for name, table in waiting.items() if table.done() and not table.cancelled()}
        return dict(sorted(tables.items(), key=lambda one: (-one[1].epoch, -one[1].rev, one[0])))

    def _ask(self, node: Node) -> asyncio.Future[TableState]:
        """Asks a node for its table, unless it is asked already."""
        waiting = self._asked.get(node.name)
        if waiting is None or waiting.done():
            waiting = self._asked[node.name] = asyncio.get_running_loop().create_future()
        assert node.link is not None
        node.link.put_message(TableAsk())
        return waiting

    async def _drafted(
        self, tables: Mapping[str, TableState], actor: Actor, reason: str, *, unproven: bool
    ) -> tuple[list[Draft], RecoveryPlan]:
        """The events that a recover appends for these tables, and the plan that they are."""
        state = self._log.state
        # Keys and settings that people have changed since a recover are not put back by a node that missed it.
        newer = [s for s in tables.values() if not self._missed(s) and not await self._log.has(s.rev, s.hash)]
        held = {name: table.entries for name, table in tables.items()}
        entries = [entry for table in tables.values() for entry in table.entries]
        events, above = recover.drafts(
            state.pointers,
            entries,
            tenants=state.tenants,
            actor=actor,
            reason=reason,
            ahead=[entry for table in newer for entry in table.entries],
            lacking=witness_rules.lacking(held, await self._known(entries)),
        )
        names = {ref.id: ref.label for entry in entries for ref in (entry.current, *entry.beneath) if ref is not None}
        plan = recover.plan(
            events,
            max([above, *(table.epoch for table in tables.values())]),
            now=state.pointers,
            nodes=[_said(node, tables, unproven) for _, node in sorted(self._fleet.nodes.items())],
            rev=state.rev,
            name=lambda release: names.get(release or "") or self._registry.catalogue.called(release),
        )
        return events, plan

    async def _known(self, entries: Sequence[TableEntry]) -> witness_rules.Known:
        """Which of the moves in nodes' tables this log knows. Reads the history of pointers that are not there now."""
        moves = {(p.key, (p.moved_epoch, p.generation), p.release) for p in self._log.state.pointers.values()}
        known, since = witness_rules.known_to(moves), dict[PointerKey, int]()
        for entry in entries:
            if not known(entry.key, entry.fence, entry.current.id if entry.current is not None else None):
                since[entry.key] = min(entry.epoch, since.get(entry.key, entry.epoch))
        for key, epoch in since.items():
            before: int | None = None
            while page := await self._store(partial(_history, key, before)):
                moves.update(move for event in page for move in witness_rules.moves_of(event))
                if page[-1].epoch < epoch:
                    break
                before = page[-1].rev
        return witness_rules.known_to(moves)

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


def _history(key: PointerKey, before: int | None, store: Store) -> list[Event]:
    return store.history(tenant=key[0], route=key[1], before_rev=before, limit=100)


def _said(node: Node, tables: Mapping[str, TableState], unproven: bool) -> RecoveryNode:
    """What a recover knows of a node."""
    if node.name in tables:
        state = "answered"
    elif node.link is None:
        state = "away"
    else:
        state = "unproven" if node.behind == UNPROVEN and not unproven else "silent"
    return RecoveryNode.model_validate({"node": node.name, "state": state, "behind": node.behind})
