"""Releases that answer badly: what nodes report of them, and what the oracle holds of the guard that acts on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from math import floor

from tests.fleets.in_process.simulated.hub_process import LABELS

from loradeck.hub.hub import Hub
from loradeck.rules.quality.guard import FORWARD
from loradeck.rules.quality.move_budgets import MOST_AN_HOUR
from loradeck.schemas.counts import AskedAgain, Traffic
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.route import Guard
from loradeck.schemas.table import TableEntry

A_SECOND = 20
"""Units that a node reports of each second, arm and pointer; of a bad release 8 of them are bad."""

BAD = 8
CALLERS = 24


@dataclass(eq=False)
class BadReleases:
    """What one node adds to its honest figures: many callers, whom some releases answer badly.

    Args:
        bad: ids of the releases that do.
        noted: told of each pointer and generation of which the node has reported bad answers.
    """

    bad: Collection[str]
    noted: Callable[[PointerKey, int], None]
    seconds: Counter[tuple[PointerKey, int, str]] = field(default_factory=Counter)

    def figures(self, honest: Iterable[Traffic], entries: Iterable[TableEntry], now: float) -> tuple[Traffic, ...]:
        """The node's figures at a moment of its monotonic clock, once a second."""
        of = {(row.tenant, row.route, row.generation, row.release): row for row in honest}
        for entry in entries:
            for ref in (entry.current, entry.candidate and entry.candidate.release):
                row = ref and of.get((entry.tenant, entry.route, entry.generation, ref.id))
                if row:
                    of[entry.tenant, entry.route, entry.generation, row.release] = self._with_votes(row, entry, now)
        return tuple(of.values())

    def _with_votes(self, row: Traffic, entry: TableEntry, now: float) -> Traffic:
        stint = (entry.key, row.generation, row.release)
        self.seconds[stint] += 1
        n, worse = A_SECOND * self.seconds[stint], row.release in self.bad
        if worse:
            self.noted(entry.key, row.generation)
        k = BAD * self.seconds[stint] * worse
        counts = {name: getattr(row, name) + n for name in ("attempted", "admitted", "finished", "checked")}
        again, out = None, entry.candidate
        other = out.release if out is not None and out.shadow else entry.beneath[0] if entry.beneath else None
        if other is not None and entry.current is not None and row.release == entry.current.id:
            theirs = BAD * self.seconds[stint] * (other.id in self.bad)
            again = AskedAgain(release=other.id, asked=n, pairs=n, checked=n, bad=(k, theirs))
            if theirs:
                self.noted(entry.key, row.generation)
        votes = ((floor(now), A_SECOND, 0, A_SECOND, BAD * worse),)
        more = {"bad": row.bad + k, "votes": votes, "callers": CALLERS, "again": again}
        return row.model_copy(update={**counts, **more})


@dataclass(eq=False)
class GuardOracle:
    """Checks what a guard commits against everything that it never does.

    Args:
        fail: ends the run.
        by_hash: the events that were committed.
    """

    fail: Callable[..., None]
    by_hash: dict[str, Event]
    spoken: dict[tuple[PointerKey, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    """(pointer, generation) -> the nodes that have reported bad answers."""
    counts: Counter[str] = field(default_factory=Counter)

    def commit(self, hub: Hub, event: Event) -> None:
        """A hub has committed an event and has not read it back: its state is the one before."""
        if event.kind is EventKind.NODE_CORDON:
            self.counts["guard: node_cordon"] += 1
            if hub.fleet.cordoned_by_guard():
                self.fail("guard cordons a second node", event.where, *hub.fleet.cordoned_by_guard())
        if event.actor != "guard" or event.pointer is None:
            return
        key = event.pointer.key
        before, where = hub.log.state.pointer(key), f"{event.tenant} gen {event.pointer.generation}"
        self.counts[f"guard: {event.kind.value}"] += 1
        if event.kind not in (EventKind.ROLLBACK, EventKind.HOLD) or not event.pointer.held:
            self.fail("guard does what no guard may", where, event.kind.value)
        if hub.log.state.config(key).guard not in (Guard.HOLD, Guard.ROLLBACK):
            self.fail("a guard acts that nobody has set", where)
        last, out = hub.log.last_move(before), before.candidate
        if out is None and (last is None or last.kind not in FORWARD):
            self.fail("guard goes further than the forward move", where)
        if hub.moves_allowed.refusing == "settling":
            self.fail("guard acts while the hub settles", where)
        placed = {node.name for node, _ in hub.replicas.placed(key)}
        if len(placed) > 1 and len(self.spoken[key, before.generation]) < 2:
            self.fail("guard acts on the word of one node", where, *self.spoken[key, before.generation])
        if event.kind is not EventKind.ROLLBACK:
            return
        ways = {before.release} if out is not None and out.shadow else {*before.beneath, out and before.release}
        if event.to_release not in ways:
            self.fail("guard goes where R would not", where, LABELS.get(event.to_release or "", event.to_release))
        if self._within_the_hour(event) > MOST_AN_HOUR:
            self.fail("guard moves a tenant more often than it may within the hour", where)

    def _within_the_hour(self, event: Event) -> int:
        found, earlier = 0, self.by_hash.get(event.hash)
        while earlier is not None:
            by_guard = earlier.actor == "guard" and earlier.kind is EventKind.ROLLBACK
            found += by_guard and earlier.tenant == event.tenant and earlier.at_ms > event.at_ms - 3_600_000
            earlier = self.by_hash.get(earlier.prev_hash)
        return found
