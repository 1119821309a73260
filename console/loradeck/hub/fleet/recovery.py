"""`loradeck hub recover`: a hub restored from a backup takes in what its nodes know better.

A node whose last (rev, hash) is not in this log has seen moves that the log lacks. From then on nothing
moves, and that node is told nothing, until somebody on the hub's host recovers: every linked node is asked
for its table, the newest entry of each pointer is appended to the log, and the epoch is raised above all that
any node has seen.

A node that was away then, and comes back with what it saw before, stops nobody else: that a part of the log is
lost is known, and a person has said with what to go on. It alone is told nothing until the next recover.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from loradeck.rules.errors import Refused
from loradeck.rules.moves import recover
from loradeck.rules.moves.draft import Actor
from loradeck.schemas.link import Hello, TableAsk, TableState
from loradeck.schemas.release import Release
from loradeck.schemas.table import TableEntry
from loradeck.store.interface import Committed, Doc

if TYPE_CHECKING:
    from loradeck.hub.fleet.nodes import Node
    from loradeck.hub.hub import Hub

log = logging.getLogger("loradeck.hub.fleet.recovery")

BEHIND = "log_behind"
EPOCH = "recovered_epoch"
"""Where the store keeps the epoch of the last recover. A backup taken before one does not know of it."""

ANSWER_S = 10.0
"""How long a linked node may take to send its table."""


class Recovery:
    def __init__(self, hub: Hub, *, behind: bool, epoch: int) -> None:
        """`behind`: nothing moves until a recover. `epoch`: of the last recover in this log; 0: there was none."""
        self._hub = hub
        self._tables: dict[str, TableState] = {}
        self._asked: set[str] = set()
        self._came = asyncio.Event()
        self.behind = behind
        self._epoch = epoch

    def found_behind(self, node: Node, hello: Hello) -> None:
        """A node has seen more than this log holds: refuse all moves, and remember it over a restart.

        Of one that missed the last recover only the node itself is held back.
        """
        missed = self._missed(hello)
        log.error(
            "log_behind node=%s its_rev=%d its_epoch=%d rev=%d epoch=%d: %s until `loradeck hub recover`",
            node.name,
            hello.rev,
            hello.epoch,
            self._hub.ledger.rev,
            self._hub.ledger.epoch,
            "it missed the last recover and is told nothing" if missed else "no moves",
        )
        if not missed and not self.behind:
            self.behind = True
            self._hub.spawn(self._remember(node.name))
        self._hub.status_changed()

    def _missed(self, seen: Hello | TableState) -> bool:
        """Whether what a node has seen is from before the last recover, which raised the epoch above all it heard."""
        return seen.epoch < self._epoch

    async def _remember(self, node: str) -> None:
        await self._hub.store(lambda s: s.set_meta(BEHIND, node))

    def table(self, node: Node, state: TableState) -> None:
        """A node's answer. Unasked ones are dropped."""
        if node.name in self._asked:
            self._tables[node.name] = state
            self._came.set()

    async def run(self, key: str, reason: str, actor: Actor) -> Committed:
        """Ask, append, raise the epoch, steer again. The caller holds `hub.moving`.

        Raises: Refused `recover_incomplete` when a linked node did not send its table: nothing was changed.
        """
        hub = self._hub
        linked = list(hub.fleet.linked())
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
        # Keys and settings that people have changed since a recover are not put back by who missed it.
        newer = [s for s in states if not self._missed(s) and not await hub.knows(s.rev, s.hash)]
        ahead = [e for s in newer for e in s.entries]
        drafts, above = recover.drafts(
            hub.ledger.pointers, entries, tenants=hub.ledger.tenants, actor=actor, reason=reason, ahead=ahead
        )
        above = max([above, *(s.epoch for s in states)])
        committed = await hub.adopt(drafts, epoch_above=above, key=key)
        self._epoch = hub.ledger.epoch
        await hub.store(lambda s: s.set_meta(EPOCH, str(hub.ledger.epoch)))
        await hub.store(lambda s: s.set_meta(BEHIND, ""))
        self.behind = False
        hub.settling.end("a person has recovered it")
        for node in hub.fleet.nodes.values():
            node.behind = None
            if node.link is not None:
                node.link.steer()
        hub.status_changed()
        log.warning("recovered events=%d epoch=%d rev=%d", len(committed.events), hub.ledger.epoch, hub.ledger.rev)
        return committed

    def _missing(self) -> list[str]:
        linked = {n.name for n in self._hub.fleet.linked()}
        return sorted((self._asked & linked) - self._tables.keys())

    async def _register(self, entries: list[TableEntry]) -> None:
        """Releases that the nodes serve and this registry has lost with its newest documents."""
        catalogue = self._hub.catalogue
        wanted: dict[str, Release] = {}
        for entry in entries:
            for ref in (entry.current, *entry.beneath):
                if ref is not None and ref.id not in catalogue.releases and ref.release.id == ref.id:
                    wanted[ref.id] = ref.release
        for release_id, release in wanted.items():
            body = release.model_dump(mode="json")
            tenant = release.tenant
            await self._hub.register(Doc.RELEASE, release_id, body, tenant=tenant, by="recover")
