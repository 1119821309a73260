"""The state of the fleet that outlives the hub: nodes, ended pins, request totals. Written every few seconds."""

from __future__ import annotations

import json
import logging
from typing import Any

from loradeck.hub.fleet.nodes import Fleet, Node
from loradeck.hub.links.pins import Pins
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.store.interface import Store, StoreError

log = logging.getLogger("loradeck.hub.links.saved_state")

FLUSH_S = 5.0
"""Seconds between two writes."""


class SavedState:
    """Reads the saved state at the start, and writes what has changed since."""

    def __init__(self, store: StoreThread) -> None:
        self._store = store
        self._kept: tuple[int, dict[str, str], Any] | None = None

    def nodes(self) -> list[Node]:
        """The nodes that were saved. Blocking."""
        saved = json.loads(self._store.now(lambda s: s.meta("nodes")) or "{}")
        return [Node.of(name, node) for name, node in saved.items()]

    def counts(self, started: float) -> RequestCounts:
        """The request counts that were saved; the hub has `started` then, monotonic seconds. Blocking."""
        boots = json.loads(self._store.now(lambda s: s.meta("router_boots")) or "{}")
        return RequestCounts(self._store.now(lambda s: s.served()), boots, started)

    def ended_pins(self) -> list[tuple[str, str, str, int]]:
        """(tenant, route, node, until when) of the ended pins that were saved. Blocking."""
        return [(t, r, n, until) for t, r, n, until in json.loads(self._store.now(lambda s: s.meta("unpins")) or "[]")]

    async def flush(self, fleet: Fleet, counts: RequestCounts, pins: Pins) -> None:
        """Writes what has changed. What cannot be written is kept for the next time."""
        deltas = counts.take_pending()
        kept = (fleet.kept_version, dict(counts.boots), pins.kept())
        changed = kept != self._kept
        # The nodes are serialised only when they have changed: for thousands that takes longer than a move may wait.
        nodes = json.dumps({n.name: n.kept() for n in fleet.nodes.values()}, sort_keys=True) if changed else ""
        if not changed and not deltas:
            return

        def write(store: Store) -> None:
            if deltas:
                store.add_served(deltas)
            if changed:
                store.set_meta("nodes", nodes)
                store.set_meta("router_boots", json.dumps(kept[1], sort_keys=True))
                store.set_meta("unpins", json.dumps(kept[2]))

        try:
            await self._store(write, background=True)
            self._kept = kept
        except StoreError as error:
            counts.give_back(deltas)
            log.error("flush failed code=%s %s", error.code, error)
