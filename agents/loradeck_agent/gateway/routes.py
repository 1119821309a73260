"""The routes that a gateway knows: what its hub told it last, which outlives the hub and this process."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from loradeck.rules.serving.gateway import highest
from loradeck.schemas.ids import GENESIS, Fence, Name, PointerKey
from loradeck.schemas.link import Bookmark, Desired, ServedRoute, Serving
from loradeck.schemas.replica_state import AckLevel
from loradeck.schemas.table import Callers, TableEntry
from loradeck_agent.gateway.status import Saved
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.router.admission import DEFAULT_ROUTE
from loradeck_agent.router.caller_keys import ANYBODY, CallerRoutes
from loradeck_agent.uplink.desired_table import DesiredTable, DirectiveVerdict

log = logging.getLogger(__name__)

SAVE_S = 2.0
"""Seconds in which changes are gathered before they are written."""

_NOWHERE: Mapping[Name, AckLevel] = {}


Shown = dict[PointerKey, tuple[Fence, Name]]
"""The newest fences that nodes have shown, by pointer, with the node."""


class GatewayRoutes(CallerRoutes):
    """A gateway's table, where pointers are served, and fences shown since. `file`: keeps it, mode 0600."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.table = DesiredTable()
        self.nodes: dict[Name, str] = {}
        """The addresses of the nodes' routers."""
        self.lost: tuple[Name, ...] = ()
        """Those of them that the hub has lost."""
        self.is_served = False
        """True once a hub, or the file, has said where pointers are served."""
        self.is_linked = False
        """True while the gateway has a connection to a hub, which sends it changes of the table."""
        self._served: dict[PointerKey, dict[Name, AckLevel]] = {}
        self._shown: Shown = {}
        self._shown_before: Shown = {}
        self._doubted: set[Name] = set()
        self._file = file
        self._unsaved = asyncio.Event()

    # ---- callers -------------------------------------------------------------------------------------------

    def callers(self, key: PointerKey) -> Callers:
        """A route's settings for its callers."""
        entry = self.entry(key)
        return entry.callers if entry is not None else ANYBODY

    def models(self, tenants: set[str]) -> list[str]:
        """Names under which these tenants' routes can be asked for."""
        return list(self._names(tenants))

    def _names(self, tenants: set[str]) -> Iterator[str]:
        for tenant, route in sorted(key for key in self.table.entries if key[0] in tenants and self.entry(key)):
            if route == DEFAULT_ROUTE:
                yield tenant
            yield f"{tenant}/{route}"

    # ---- one request ---------------------------------------------------------------------------------------

    def entry(self, key: PointerKey) -> TableEntry | None:
        """A pointer's entry; None: there is none, or it has no release."""
        entry = self.table.entries.get(key)
        return entry if entry is not None and entry.current is not None else None

    def served(self, key: PointerKey) -> Mapping[Name, AckLevel]:
        """The nodes that a pointer is placed on, and how near its release is to answering there."""
        return self._served.get(key, _NOWHERE)

    def moved(self, key: PointerKey, node: Name, to: Iterable[Name]) -> None:
        """A node has said that others serve a pointer, and no longer itself.

        While no hub is linked that is remembered, until one tells where pointers are served. While one is, it knows
        better than a node that a withdrawal has just reached.
        """
        if not self.is_linked and (found := dict.fromkeys(to, AckLevel.ABSENT)):
            before = {name: level for name, level in self.served(key).items() if name != node}
            self._served[key] = {**found, **before}

    def fence(self, entry: TableEntry) -> Fence:
        """The highest fence that is known of a pointer, which its nodes are sent."""
        if not self._shown and not self._shown_before:
            return entry.fence
        shown = (shown.get(entry.key) for shown in (self._shown, self._shown_before))
        return (
            highest(entry.fence, self.table.cursor.epoch, [one[0] for one in shown if one is not None]) or entry.fence
        )

    def show(self, entry: TableEntry, fence: Fence, node: Name) -> None:
        """A node has shown the fence of the entry that it holds."""
        if fence > entry.fence and fence > self.fence(entry) and node not in self._doubted:
            self._shown[entry.key] = (fence, node)

    # ---- the hub -------------------------------------------------------------------------------------------

    def directive(self, message: Desired) -> str | None:
        """Takes entries. Returns why the whole table has to be sent; None: it need not be."""
        verdict = self.table.judge(message)
        if verdict is DirectiveVerdict.GAP:
            self.table.missed = True
            return f"revisions {self.table.cursor.rev} to {message.prev_rev} were missed"
        if verdict is not DirectiveVerdict.APPLY:
            log.warning("ignored: epoch %d revision %d is %s", message.epoch, message.rev, verdict.value)
            return None
        why = self.table.flaw(message)
        if not why and self.table.forged(message):
            why = "no hub of this log has signed an entry"
        if why:
            log.error("refused: revision %d: %s", message.rev, why)
            self.table.missed = True
            return f"revision {message.rev} was refused: {why}"
        self._apply(message)
        if message.full and not self.table.is_whole(message):
            return f"the table differs from the hub's at revision {message.rev}"
        return None

    def _apply(self, message: Desired) -> None:
        before = self.table.entries.copy() if message.full else self.table.entries
        held = {entry.key: before[entry.key].keys if entry.key in before else () for entry in message.entries}
        gone = self.table.withdrawn(message)
        self.table.take(message)
        for key, keys in held.items():
            self.set_callers(key, keys, self.table.entries[key].keys)
        for tombstone in gone:
            self.set_callers(tombstone.key, tombstone.keys, ())
            self._served.pop(tombstone.key, None)
        self._unsaved.set()

    def bookmark(self, message: Bookmark) -> str | None:
        """Takes the hub's newest position. Returns why the whole table has to be sent; None: it need not be."""
        if flaw := self.table.flaw(message):
            log.error("passed over: the bookmark of epoch %d revision %d: %s", message.epoch, message.rev, flaw)
            return None
        if self.table.missed:
            return "a directive was missed, and the whole table has not come"
        if self.table.bookmark(message):
            self._doubt()
        return None

    def _doubt(self) -> None:
        """Forgets what was shown before the last bookmark but one.

        A move that a node has heard of has come here by now. One that has not is none of the hub's: the node that shows
        it is believed no more, or it could have every other node of its pointers refuse. A fence of an earlier hub,
        whose move may have been lost, counts for nothing and says nothing against its node.
        """
        for key, (fence, node) in self._shown_before.items():
            entry = self.table.entries.get(key)
            if fence[0] < self.table.cursor.epoch:
                continue
            if (entry is None or fence > entry.fence) and node not in self._doubted:
                self._doubted.add(node)
                log.error("%s shows a move of %s that the hub knows nothing of: its fences are ignored", node, key)
        self._shown, self._shown_before = {}, self._shown

    def serving(self, message: Serving) -> None:
        """Takes where pointers are served."""
        self.is_served = True
        if message.full:
            self._served.clear()
        for route in message.routes:
            self._served[route.key] = route.nodes
        if message.nodes is not None:
            self.nodes, self.lost = message.nodes, message.lost
        self._unsaved.set()

    # ---- the disk ------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Reads what was saved. A file that cannot be read is as none: the hub sends everything."""
        try:
            saved = Saved.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            log.error("%s cannot be read, so callers are refused until a hub answers: %s", self._file, error)
            return
        self._apply(saved.desired)
        self.serving(saved.serving)
        self._unsaved.clear()

    async def keep_saved(self) -> None:
        """Writes what has changed, for ever."""
        while True:
            await self._unsaved.wait()
            await self.save()
            await asyncio.sleep(SAVE_S)

    async def save(self) -> None:
        """Writes what has changed, if anything has."""
        if not self._unsaved.is_set():
            return
        self._unsaved.clear()
        try:
            await asyncio.to_thread(write_durably, self._file, self._snapshot())
        except OSError as error:
            log.error("%s cannot be written: %s", self._file, error)

    def _snapshot(self) -> bytes:
        return self.saved().model_dump_json().encode()

    def saved(self) -> Saved:
        """Returns everything that its file keeps."""
        cursor, entries = self.table.cursor, tuple(self.table.entries.values())
        desired = Desired(
            epoch=cursor.epoch,
            rev=cursor.rev,
            prev_rev=cursor.rev,
            hash=cursor.hash,
            entries=entries,
            full=True,
            table=GENESIS,
            position=cursor.witness,
        )
        routes = tuple(
            ServedRoute(tenant=tenant, route=route, nodes=nodes) for (tenant, route), nodes in self._served.items()
        )
        serving = Serving(full=True, nodes=self.nodes, lost=self.lost, routes=routes)
        return Saved(desired=desired, serving=serving)
