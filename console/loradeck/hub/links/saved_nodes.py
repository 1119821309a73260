"""The state of the fleet that outlives the hub: nodes, ended pins, request totals. Written every few seconds."""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.links.pins import Pins
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.rules.clocks import HOUR_MS, MINUTE_MS
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.ids import PointerKey
from loradeck.store.interface import FleetChange, Served, StoreError
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.links.saved_nodes")

ROWS = 200
"""Rows that are written at once: more would keep a move waiting."""

Minute = Mapping[PointerKey, Counts]


class PendingMinutes:
    """The counts that are not in the store yet, by minutes since 1970. A minute is written once it is over.

    A request counts in the minute in which the hub has booked its end, a few seconds late.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, dict[PointerKey, Counts]] = {}

    def add(self, deltas: Iterable[Served], minute: int) -> None:
        """Adds what releases have served in a minute."""
        for delta in deltas:
            if delta.counts:
                self._put(minute, (delta.tenant, delta.route), delta.counts)

    def take(self, minute: int) -> dict[int, Minute]:
        """The next rows that are to be written, of minutes before this one, oldest first. The caller writes them, or
        gives them back.
        """
        rest = ROWS
        taken: dict[int, Minute] = {}
        for at in sorted(at for at in self._minutes if at < minute):
            keys = list(self._minutes[at])[:rest]
            taken[at] = {key: self._minutes[at].pop(key) for key in keys}
            rest -= len(keys)
            if not self._minutes[at]:
                del self._minutes[at]
            if not rest:
                break
        return taken

    def __len__(self) -> int:
        """Rows that are not in the store yet."""
        return sum(map(len, self._minutes.values()))

    def give_back(self, taken: Mapping[int, Minute]) -> None:
        """Takes back rows that could not be written."""
        for minute, rows in taken.items():
            for key, counts in rows.items():
                self._put(minute, key, counts)

    def of(self, key: PointerKey) -> dict[int, Counts]:
        """The counts of a route that are not in the store yet, by the minute."""
        return {minute: rows[key] for minute, rows in self._minutes.items() if key in rows}

    def _put(self, minute: int, key: PointerKey, counts: Counts) -> None:
        rows = self._minutes.setdefault(minute, {})
        rows[key] = rows.get(key, NO_COUNTS) + counts


FLUSH_S = 5.0
"""Seconds between two writes."""


class SavedState:
    """Reads the saved state at the start, and writes what has changed since."""

    def __init__(self, store: StoreThread, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._kept: tuple[dict[str, str], Any] | None = None
        self._writing = asyncio.Lock()
        self.minutes = PendingMinutes()

    def nodes(self) -> list[Node]:
        """The nodes that were saved. Blocking."""
        return [Node.of(name, node) for name, node in self._store.now(lambda s: s.nodes()).items()]

    def counts(self, started: float) -> RequestCounts:
        """The request counts that were saved; the hub has `started` then, monotonic seconds. Blocking."""
        boots = json.loads(self._store.now(lambda s: s.meta("router_boots")) or "{}")
        return RequestCounts(self._store.now(lambda s: s.served()), boots, started)

    def ended_pins(self) -> list[tuple[str, str, str, int]]:
        """(tenant, route, node, until when) of the ended pins that were saved. Blocking."""
        return [(t, r, n, until) for t, r, n, until in json.loads(self._store.now(lambda s: s.meta("unpins")) or "[]")]

    async def flush(
        self,
        fleet: Fleet,
        withdrawals: Withdrawals,
        counts: RequestCounts,
        pins: Pins,
        used: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Writes what has changed, and when tokens were last used, by their ids.

        What cannot be written is kept for the next time; a token's use is not.
        """
        try:
            await self.save_fleet(fleet, withdrawals)
        except StoreError as error:
            log.error("flush failed code=%s %s", error.code, error)
        deltas = counts.take_pending()
        kept = (dict(counts.boots), pins.kept())
        changed = kept != self._kept
        if not changed and not deltas and not used:
            return

        now_ms, served = self._clock.now_ms(), False

        def write(store: Store) -> None:
            nonlocal served
            if deltas:
                store.add_served(deltas, now_ms // HOUR_MS)
                served = True
            if changed:
                store.set_meta("router_boots", json.dumps(kept[0], sort_keys=True))
                store.set_meta("unpins", json.dumps(kept[1]))
            # As the store has it: one that was withdrawn meanwhile stays so.
            for token in store.tokens() if used else ():
                if token.id in used:
                    store.put_token(token.model_copy(update={"last_used_ms": used[token.id]}))

        try:
            await self._store(write, background=True)
            self._kept = kept
        except StoreError as error:
            log.error("flush failed code=%s %s", error.code, error)
        if served:
            self.minutes.add(deltas, now_ms // MINUTE_MS)
        else:
            counts.give_back(deltas)

    async def write_minutes(self, *, all_of_them: bool = False) -> None:
        """Writes the next counts by the minute, of minutes that are over: a few at a time, so that a minute's are all
        written within the next one.

        `all_of_them`: the hub ends: those of the minute that runs are written too.
        """
        until = self._clock.now_ms() // MINUTE_MS + all_of_them
        at_once = len(self.minutes) if all_of_them else 1 + len(self.minutes) // 6
        for _ in range(0, at_once, ROWS):
            minutes = self.minutes.take(until)
            rest = dict(minutes)

            def write(store: Store, rest: dict[int, Minute] = rest) -> None:
                for minute in sorted(rest):
                    store.add_minutes(minute, rest[minute])
                    del rest[minute]

            try:
                await self._store(write, background=True)
            except StoreError as error:
                self.minutes.give_back(rest)
                log.error("counts by the minute not written code=%s %s", error.code, error)
                return

    async def save_fleet(self, fleet: Fleet, withdrawals: Withdrawals) -> None:
        """Writes the nodes and withdrawals that have changed. Who calls it together waits for one write.

        Raises: StoreError: what could not be written is kept for the next time.
        """
        async with self._writing:
            names, changed = fleet.unsaved, withdrawals.unsaved
            if not names and not changed:
                return
            fleet.unsaved, withdrawals.unsaved = set(), {}
            nodes = {name: fleet.nodes[name] for name in names if name in fleet.nodes}
            placements = {name: node.placement for name, node in nodes.items()}
            kept = {name: nodes[name].kept() if name in nodes else None for name in sorted(names)}
            change = FleetChange(nodes=kept, withdrawals=changed)
            try:
                await self._store(lambda s: s.save_fleet(change))
            except StoreError:
                fleet.unsaved |= names
                withdrawals.unsaved = changed | withdrawals.unsaved
                raise
            for name, node in nodes.items():
                node.saved = placements[name]
