"""`loradeck hub recover`: a hub whose log lacks moves that nodes have seen adopts or drops them, as planned.

It happens after a restore from a backup, or when two hubs wrote to copies of one log. All linked nodes are asked for
their tables; what nodes that were ahead had seen is known from before (`witnesses`). The newest entry of each pointer
is appended to the log, and the epoch is raised above all that any node has seen.

A node that was away then, and comes back with what it saw before, holds nobody else back: the loss is known, and a
person has decided with what to go on. Only that node is sent no table until the next recover.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from loradeck.hub.fleet.node import Node, NodeLink
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.catalogue import Registry
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.log import Log
from loradeck.hub.log.runtime import StoreThread
from loradeck.hub.recovery import witnesses
from loradeck.hub.recovery.startup import Startup
from loradeck.hub.recovery.witnesses import Witnesses
from loradeck.rules.errors import Refused, plan_changed
from loradeck.rules.moves import recover
from loradeck.rules.moves import witness as witness_rules
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.witness import LogStanding
from loradeck.schemas.ids import Role, short
from loradeck.schemas.link import Hello, TableState
from loradeck.schemas.log import Draft
from loradeck.schemas.moves import RecoveryNode, RecoveryPlan
from loradeck.schemas.release import Release
from loradeck.schemas.table import TableEntry
from loradeck.store.interface import Committed, StoreError

log = logging.getLogger("loradeck.hub.recovery.recover")

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
            await asyncio.wait(waiting.values(), timeout=witnesses.ANSWER_S)
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
        entries = [entry for one in held.values() for entry in one]
        events, above = recover.drafts(
            state.pointers,
            entries,
            tenants=state.tenants,
            actor=actor,
            reason=reason,
            ahead=[*ahead, *(entry for table in newer for entry in table.entries)],
            lacking=witness_rules.lacking(held, await self._witnesses.known(entries)),
        )
        names = {ref.id: ref.label for entry in entries for ref in (entry.current, *entry.beneath) if ref is not None}
        plan = recover.plan(
            events,
            max([above, *(node.epoch for _, node in witnessed), *(table.epoch for table in tables.values())]),
            now=state.pointers,
            nodes=[self._said(node, tables, unsigned) for _, node in sorted(self._fleet.nodes.items())],
            rev=state.rev,
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
