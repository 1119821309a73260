"""`loradeck hub recover`: a hub whose log lacks moves that nodes have seen adopts or drops them, as planned.

It happens after a restore from a backup, or when two hubs wrote to copies of one log. All linked nodes are asked for
their tables; what nodes that were ahead had seen is known from before (`Witnesses`). The newest entry of each pointer
is appended to the log, and the epoch is raised above all that any node has seen.

A node that was away then, and comes back with what it saw before, holds nobody else back: the loss is known, and a
person has decided with what to go on. Only that node is sent no table until the next recover.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from loradeck.hub.fleet.node import Node, NodeLink
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.background import Background
from loradeck.hub.log.catalogue import Registry
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread, calling
from loradeck.hub.recovery.lost_tails import LostTails
from loradeck.hub.recovery.startup import Startup
from loradeck.rules.errors import Refused, plan_changed
from loradeck.rules.moves import recover
from loradeck.rules.moves import witness as witness_rules
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.witness import LogStanding
from loradeck.schemas.ids import PointerKey, Role, Wire, short
from loradeck.schemas.link import Hello, TableAsk, TableState
from loradeck.schemas.log import Draft, EventKind
from loradeck.schemas.manifest import Release
from loradeck.schemas.moves import RecoveryNode, RecoveryPlan
from loradeck.schemas.table import EntryOnWire, TableEntry
from loradeck.store.interface import Committed, StoreError
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.recovery.recover")

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
    """Who proves to have seen moves which the log lacks: what waits for a recover, and what goes on.

    These are nodes, and hubs that had folded what the database does not hold (`lost`).

    Such a node is asked for its table at once, and the hub begins an epoch above all that it has seen. Its entries that
    the log lacks hold back their own pointers and forward moves until somebody recovers. They outlive a restart, and go
    back to the node as they are, so that it follows the log in everything else: R works there on every other pointer.
    """

    _store: StoreThread
    _log: Log
    _fleet: Fleet
    _tables: NodeTables
    _startup: Startup
    _changes: Changes
    _background: Background
    lost: LostTails
    _asked: dict[str, asyncio.Future[TableState]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.ahead: dict[str, Ahead] = _kept.validate_json(self._store.now(lambda s: s.meta(AHEAD)) or "{}")
        self.serve_on()

    # ---- what waits ----------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The nodes and hubs that have seen what the log lacks; empty: nothing waits for a recover."""
        return sorted({*self.ahead, *(kept.witness for kept in self.lost.undecided)})

    def holding(self, key: PointerKey) -> list[str]:
        """The nodes and hubs that hold a pointer back. A node whose table is not known yet holds what may be placed on
        it.
        """
        may_hold = self._log.state.may_hold
        nodes = (
            name
            for name, ahead in self.ahead.items()
            if (
                self._fleet.nodes[name].gateway or may_hold(key, name, self._fleet.nodes[name].labels)
                if ahead.entries is None
                else any(entry.key == key for entry in ahead.entries)
            )
        )
        return sorted({*nodes, *self.lost.holding(key)})

    def unknown(self, node: str) -> bool:
        """Tells whether a node is ahead of the log, and its table is not known yet."""
        ahead = self.ahead.get(node)
        return ahead is not None and ahead.entries is None

    def waits(self, kind: EventKind, key: PointerKey | None) -> bool:
        """Tells whether an event waits for a recover."""
        held = key is not None and bool(self.holding(key))
        return witness_rules.waits(kind, ahead=bool(self.names), held=held)

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
                known = await self.known(map(witness_rules.move_of, table.entries))
                if node.link is link and node.name in self.ahead:
                    await self._learned(node, link, table, known)
                return
            except (StoreError, TimeoutError, KeyError) as error:
                log.error("not looked at yet node=%s: %s", node.name, error or "no answer")
                await asyncio.sleep(RETRY_S)

    async def _learned(self, node: Node, link: NodeLink, table: TableState, known: witness_rules.KnowsMove) -> None:
        genuine = self._log.signing.is_genuine if link.signed else (lambda entry: True)
        entries = witness_rules.held_back(table.entries, self._tables.entries, known, genuine)
        before = self.ahead[node.name]
        if before.entries is not None:  # its disk was put back: what it had seen before is still to be decided on
            entries = tuple(recover.newest([*before.entries, *entries]).values())
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
        """Forgets who was ahead of the log, so that their pointers may move again."""
        await self.lost.decide()
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

    async def known(self, seen: Iterable[witness_rules.SeenMove]) -> witness_rules.KnowsMove:
        """Which of the moves that others have seen this log knows. Reads the history of pointers that are not there
        now.
        """
        pointers = self._log.state.pointers
        moves = {(p.key, (p.moved_epoch, p.generation), p.release) for p in pointers.values()}
        known, since = witness_rules.known_to(moves), dict[PointerKey, int]()
        for key, fence, release in seen:
            if key in pointers and not known(key, fence, release):
                since[key] = min(fence[0], since.get(key, fence[0]))
        for key, epoch in since.items():
            before: int | None = None
            tenant, route = key
            while page := await self._store(
                calling(Store.history, tenant=tenant, route=route, before_rev=before, limit=100)
            ):
                moves.update(move for event in page for move in witness_rules.moves_of(event))
                if page[-1].epoch < epoch:
                    break
                before = page[-1].rev
        return witness_rules.known_to(moves)


BEHIND = "log_behind"
UNPROVEN = "log_unproven"
"""Problem code of a node that says it has seen more than the log, and has no signature to show for it."""

EPOCH = "recovered_epoch"
"""The store's key for the epoch of the last recover. A backup taken before one lacks it."""


@dataclass(eq=False)
class Recovery:
    """The greeting of nodes that are ahead of the log, and the recover, whose epoch outlives a restart."""

    _store: StoreThread
    _log: Log
    _registry: Registry
    _fleet: Fleet
    _startup: Startup
    _changes: Changes
    _witnesses: Witnesses

    def __post_init__(self) -> None:
        epoch = self._store.now(lambda s: s.meta(EPOCH))
        self._epoch = int(epoch or 0)
        """The epoch of the last recover in this log; 0: there was none."""

    async def standing(self, hello: Hello) -> LogStanding:
        """Judges what a node's hello says about this log.

        Raises: Refused `not_active`: another hub has taken the lease, so this log is not the newest.
        """
        if self._log.lease_lost:
            raise self._log.not_active()
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

    def code(self, node: str, standing: LogStanding) -> str | None:
        """The problem code of a node's hello; None: it is welcome, and steered."""
        if standing.is_ahead or (standing is LogStanding.FOLLOWS and self._witnesses.unknown(node)):
            return BEHIND
        return UNPROVEN if standing is LogStanding.UNPROVEN else None

    def holds(self, node: str) -> str | None:
        """The problem code of a node that is steered, and still holds back what it has seen; None: it holds nothing."""
        return BEHIND if node in self._witnesses.ahead else None

    def greet(self, node: Node, hello: Hello, link: NodeLink) -> None:
        """Holds back what a node that is ahead of the log has seen, or the node itself: it was not welcome.

        A node that missed the last recover, or cannot prove what it says, is only held back itself.
        """
        alone = self._missed(hello) or node.behind == UNPROVEN
        log.error(
            "%s node=%s its_rev=%d its_epoch=%d rev=%d epoch=%d: %s until `loradeck hub recover`",
            node.behind,
            node.name,
            hello.rev,
            hello.epoch,
            self._log.state.rev,
            self._log.state.epoch,
            "it gets no table" if alone else "its pointers and forward moves wait",
        )
        if not alone:
            self._witnesses.found(node, link, epoch=hello.epoch, rev=hello.rev)
        self._changes.status()
        self._changes.node(node.name)

    def _missed(self, seen: Hello | TableState) -> bool:
        """Tells whether a node is still at an epoch from before the last recover."""
        return seen.epoch < self._epoch

    # ---- the plan ------------------------------------------------------------------------------------------

    async def plan(self, *, unproven: bool) -> RecoveryPlan:
        """Asks all linked nodes for their tables, and says what a recover would append. Changes nothing."""
        tables, unsigned = await self._gather(unproven)
        return (await self._drafted(tables, unsigned, Actor(name="", role=Role.VIEWER), ""))[1]

    async def run(self, key: str, reason: str, actor: Actor, *, plan: str | None, unproven: bool) -> Committed:
        """Appends what the plan says, and raises the epoch.

        Nodes that cannot prove what they say are believed only if `unproven` is set. These, and nodes that did not
        answer, stay held back: each alone, until the next recover.

        Raises: Refused `plan_required`, `plan_changed`: nothing was changed.
        """
        if plan is None:
            raise Refused("plan_required", "a recover sends back the digest of its plan", fix="ask for the plan first")
        tables, unsigned = await self._gather(unproven)
        async with self._log.moving:
            events, found = await self._drafted(tables, unsigned, actor, reason)
            if found.digest != plan:
                detail = f"plan {short(plan)}, now {short(found.digest)}; nothing was changed"
                raise plan_changed("a recover would now do something else than was planned", found, detail)
            held = [entry for ahead in self._witnesses.ahead.values() for entry in ahead.entries or ()]
            held += [entry for kept in self._witnesses.lost.undecided for entry in kept.entries]
            await self._register([*held, *(entry for state in tables.values() for entry in state.entries)])
            above, decided = found.epoch_above, self._witnesses.let_go
            try:
                committed = await self._log.adopt(events, epoch_above=above, key=key, decided=decided)
            except StoreError:
                self._witnesses.serve_on()
                raise
            await self._recovered(tables)
        log.warning("recovered events=%d epoch=%d rev=%d", len(committed.events), self._epoch, self._log.state.rev)
        return committed

    async def _recovered(self, tables: Mapping[str, TableState]) -> None:
        """Makes moves again, and steers the nodes whose tables were taken into account."""
        self._epoch = self._log.state.epoch
        await self._store(lambda s: s.set_meta(EPOCH, str(self._epoch)))
        known = {*tables, *(name for name, ahead in self._witnesses.ahead.items() if ahead.entries is not None)}
        await self._witnesses.recovered()
        self._startup.end("a person has recovered it")
        for name in known:
            node = self._fleet.nodes[name]
            node.behind = None
            if node.link is not None:
                node.link.steer()
        self._changes.status()

    async def _gather(self, unproven: bool) -> tuple[dict[str, TableState], dict[str, int]]:
        """The tables of the linked nodes as far as they are believed, by node, the newest first, and how many of each
        node's entries are not. Silent nodes are missing.
        """
        nodes = [node for node in self._fleet.linked() if unproven or node.behind != UNPROVEN]
        waiting = {node.name: self._witnesses.ask(node) for node in nodes}
        if waiting:
            await asyncio.wait(waiting.values(), timeout=ANSWER_S)
        done = {name: table.result() for name, table in waiting.items() if table.done() and not table.cancelled()}
        came = {name: table for name, table in done.items() if witness_rules.is_bounded(table)}
        # An empty log knows no key but its own, and has nothing to lose by believing.
        believed = unproven or self._log.state.rev == 0
        tables = came if believed else {name: self._signed_part(table) for name, table in came.items()}
        unsigned = {name: len(came[name].entries) - len(table.entries) for name, table in tables.items()}
        return dict(sorted(tables.items(), key=lambda one: (-one[1].epoch, -one[1].rev, one[0]))), unsigned

    def _signed_part(self, table: TableState) -> TableState:
        """A node's table with those of its entries that a hub of this log signed, and no later epoch than theirs."""
        entries = tuple(entry for entry in table.entries if self._log.signing.is_genuine(entry))
        seen = max([self._log.state.epoch, *(entry.epoch for entry in entries)])
        return table.model_copy(update={"entries": entries, "epoch": min(table.epoch, seen)})

    async def _drafted(
        self, tables: Mapping[str, TableState], unsigned: Mapping[str, int], actor: Actor, reason: str
    ) -> tuple[list[Draft], RecoveryPlan]:
        """The events that a recover appends for these tables, and the plan that they are."""
        state = self._log.state
        # Keys and settings that people have changed since a recover are not put back by a node that missed it.
        newer = [s for s in tables.values() if not self._missed(s) and not await self._log.has(s.rev, s.hash)]
        held = {name: list(table.entries) for name, table in tables.items()}
        witnessed = sorted(self._witnesses.ahead.items(), key=lambda one: (-one[1].epoch, -one[1].rev, one[0]))
        ahead = [entry for _, node in witnessed for entry in node.entries or ()]
        for name, node in witnessed:
            held.setdefault(name, []).extend(node.entries or ())
        tails, moves = self._witnesses.lost.undecided, dict[str, list[witness_rules.SeenMove]]()
        for kept in sorted(tails, key=lambda kept: (-kept.tail.epoch, -kept.tail.rev)):
            ahead += kept.entries
            held.setdefault(kept.witness, []).extend(kept.entries)
            moves.setdefault(kept.witness, []).extend(kept.moves)
        entries = [entry for one in held.values() for entry in one]
        seen = [*map(witness_rules.move_of, entries), *(move for of in moves.values() for move in of)]
        events, above = recover.drafts(
            state.pointers,
            entries,
            tenants=state.tenants,
            actor=actor,
            reason=reason,
            ahead=[*ahead, *(entry for table in newer for entry in table.entries)],
            lacking=witness_rules.lacking(held, await self._witnesses.known(seen), moves=moves),
        )
        names = {ref.id: ref.label for entry in entries for ref in (entry.current, *entry.beneath) if ref is not None}
        plan = recover.plan(
            events,
            max([above, *(node.epoch for _, node in witnessed), *(table.epoch for table in tables.values())]),
            now=state.pointers,
            nodes=[self._said(node, tables, unsigned) for _, node in sorted(self._fleet.nodes.items())],
            rev=state.rev,
            lost=[kept.tail for kept in tails],
            name=lambda release: names.get(release or "") or self._registry.catalogue.called(release),
        )
        return events, plan

    def _said(self, node: Node, tables: Mapping[str, TableState], unsigned: Mapping[str, int]) -> RecoveryNode:
        """Lists what a recover knows of a node."""
        ahead = self._witnesses.ahead.get(node.name)
        if node.name in tables:
            state = "answered"
        elif ahead is not None and ahead.entries is not None:
            state = "known"
        elif node.link is None:
            state = "away"
        else:
            state = "unproven" if node.behind == UNPROVEN else "silent"
        said = {"node": node.name, "state": state, "behind": node.behind, "unsigned": unsigned.get(node.name, 0)}
        return RecoveryNode.model_validate(said)

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
