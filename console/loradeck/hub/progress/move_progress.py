"""The progress of moves after their commit: flipped, then proven; and the requests that wait for one of these."""

import asyncio
import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.log import Published
from loradeck.hub.log.takeover import Move
from loradeck.hub.progress.acknowledgements import AckEffect, PlacedReplicas, Progress
from loradeck.hub.progress.flags import Flags
from loradeck.hub.progress.release_health import ReleaseAttestations, ReleaseHealth
from loradeck.rules.serving.proof import ORDER, Reached
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.counts import Counts
from loradeck.schemas.ids import Fence, PointerKey
from loradeck.schemas.link import Ack
from loradeck.schemas.log import EventKind
from loradeck.schemas.replica_state import LINK_TTL_S

TOGETHER_S = 0.02
"""Nodes that link, leave, are lost or acknowledge within this many seconds are handled together."""


@dataclass(eq=False)
class Wait:
    """The pointers that one request waits for to reach a level, or to have no hope of it any more."""

    level: str
    fences: dict[PointerKey, Fence]
    done: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self.open = set(self.fences)


@dataclass(slots=True)
class _FirstTimes:
    """When all replicas of a generation had first flipped, and were first proven; None: not yet."""

    fence: Fence
    flipped_at: float | None = None
    proven_at: float | None = None


@dataclass(eq=False)
class MoveProgress:
    """When each pointer's current generation was committed, flipped and proven, and who waits for it.

    Args:
        clock: monotonic seconds.
        timed: called with the seconds from each commit to its last flip.
    """

    _tables: NodeTables
    _replicas: PlacedReplicas
    _health: ReleaseHealth
    _releases: ReleaseAttestations
    _flags: Flags
    _changes: Changes
    _clock: Callable[[], float]
    _timed: Callable[[float], None] = lambda _: None
    committed_at: dict[PointerKey, float] = field(default_factory=dict, init=False)
    """When the current generation was committed, if since the hub started; monotonic seconds."""
    bad_before: dict[PointerKey, Counts | None] = field(default_factory=dict, init=False)
    """The counts of the release that the last move left, which its share of bad answers is of."""
    _first_times: dict[PointerKey, _FirstTimes] = field(default_factory=dict, init=False)
    """Times of the newest generation of each pointer: kept where a replica comes back and flips and is proven again."""
    _flips: deque[float] = field(default_factory=lambda: deque(maxlen=50), init=False)
    _flips_of: dict[PointerKey, deque[float]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=10)), init=False
    )
    _waits: dict[PointerKey, dict[Wait, None]] = field(default_factory=lambda: defaultdict(dict), init=False)
    """Those who wait, in the order in which they came: it is the order in which they are told."""
    _unchecked: dict[PointerKey, None] = field(default_factory=dict, init=False)
    _acknowledged: dict[PointerKey, None] = field(default_factory=dict, init=False)

    def estimate_ms(self, key: PointerKey) -> float | None:
        """The median of the last flips of a pointer, or else of any; None: none was measured yet."""
        flips = self._flips_of.get(key) or self._flips
        return statistics.median(flips) if flips else None

    # ---- what happened -------------------------------------------------------------------------------------

    def acknowledged(self, node: Node, ack: Ack) -> None:
        """Counts a replica's acknowledgement. One of another generation than the newest changes nothing."""
        key = (ack.tenant, ack.route)
        counted = self._replicas.acknowledge(node, ack)
        if counted is AckEffect.STALE:
            self.check_soon((key,))
            self._changes.now((key,))
        elif counted is not AckEffect.IGNORED:
            loop = asyncio.get_running_loop()
            if counted is AckEffect.COMPLETE:
                loop.call_soon(self._check_acknowledged)
            elif not self._acknowledged:
                loop.call_later(TOGETHER_S, self._check_acknowledged)
            self._acknowledged[key] = None

    def _check_acknowledged(self) -> None:
        """Checks and shows pointers that were acknowledged: at once where nobody owes any more, else many together."""
        keys, self._acknowledged = self._acknowledged, {}
        if keys:
            for key in keys:
                self.check(key)
            self._changes.now(keys)

    def committed(self, published: Published) -> None:
        """Begins anew for pointers that moved or whose routes have new settings; a follower of the log."""
        for move in published.moves:
            self._moved(move)
        for event in published.events:
            if event.kind is EventKind.ROUTE and event.route is not None:
                self._releases.settings_changed((event.tenant, event.route))
            if event.kind is EventKind.LIFT and event.route is not None:
                release = str(event.payload["release"])
                self._releases.forget_flags((event.tenant, event.route), release)
                self._flags.lifted((event.tenant, event.route), release)

    def _moved(self, move: Move) -> None:
        key, before, now = move.key, move.before, self._clock()
        assert move.event.pointer is not None
        self.committed_at[key] = now
        left = before is not None and before.release is not None
        self.bad_before[key] = self._health.leave(before, move.event.at_ms, now) if before and left else None
        self._releases.moved(move.event.pointer)
        self._flags.moved(move.event.pointer)
        if key in self._waits:  # nobody has acknowledged it yet, but who waits for an older generation waits no more
            self.check(key)

    def attested(self, attestation: Attestation, keys: Iterable[PointerKey]) -> None:
        """Checks pointers again whose release is durably attested or soaked now; a follower of the attestations."""
        if attestation.kind in (AttestationKind.ATTESTED, AttestationKind.SOAKED):
            for key in keys:
                self._releases.written(key, attestation)
                self.check(key)

    def traffic(self, key: PointerKey) -> None:
        """Handles counters of a pointer that grew."""
        self._releases.traffic(key)
        self._flags.look(key)

    def check_soon(self, keys: Iterable[PointerKey]) -> None:
        """Checks pointers of a node that changed: soon, and once for all nodes that change together."""
        if not self._unchecked:
            asyncio.get_running_loop().call_later(TOGETHER_S, self._check_all)
        self._unchecked.update(dict.fromkeys(keys))

    def _check_all(self) -> None:
        keys, self._unchecked = self._unchecked, {}
        for key in keys:
            self.check(key)

    def check(self, key: PointerKey) -> None:
        """Attests what a pointer's replicas have reached, and wakes who waits for it."""
        entry = self._tables.entries.get(key)
        if entry is None:
            return
        progress = self._replicas.progress(key)
        self._note_times(key, entry.fence, progress)
        self._releases.check(key, progress)
        for wait in list(self._waits.get(key, ())):
            self._look(wait, key, progress)

    def _note_times(self, key: PointerKey, fence: Fence, progress: Progress) -> _FirstTimes:
        """Keeps when a generation was first flipped and first proven, and times its flip."""
        times, committed = self._first_times.get(key), self.committed_at.get(key)
        if times is None or times.fence != fence:
            times = self._first_times[key] = _FirstTimes(fence)
        if times.proven_at is None:
            times.proven_at = progress.proven_at
        if times.flipped_at is None and progress.flipped_at is not None:
            times.flipped_at = progress.flipped_at
            if committed is not None and progress.flipped_at >= committed:
                took = progress.flipped_at - committed
                self._timed(took)
                if took < LINK_TTL_S:  # a move that waited for a lost node tells nothing about the next flip
                    self._flips.append(took * 1000)
                    self._flips_of[key].append(took * 1000)
        return times

    def tick(self) -> None:
        """Checks what comes true by time alone; called once a second."""
        for key in list(self._releases.unattested):
            self.check(key)
        self._releases.tick()
        self._flags.tick()
        for key in [k for k in self._waits if k not in self._releases.unattested]:
            self.check(key)

    # ---- waiting -------------------------------------------------------------------------------------------

    async def wait(self, level: str, fences: dict[PointerKey, Fence], timeout: float) -> None:
        """Waits until every pointer has reached a level, cannot reach it (lost or failed replicas), or has moved on.

        A wait that takes longer than `timeout` seconds ends as well; `reached` tells how far it got.
        """
        if level == "committed" or timeout <= 0:
            return
        wait = Wait(level, fences)
        for key in fences:
            self._waits[key][wait] = None
        try:
            for key in fences:
                self._look(wait, key, self._replicas.progress(key))
            async with asyncio.timeout(timeout):
                await wait.done.wait()
        except TimeoutError:
            pass  # the answer says how far it got
        finally:
            for key in fences:
                self._waits[key].pop(wait, None)
                if not self._waits[key]:
                    del self._waits[key]

    def _look(self, wait: Wait, key: PointerKey, progress: Progress) -> None:
        entry = self._tables.entries.get(key)
        gone = entry is None or entry.fence != wait.fences[key]
        # Who has seen 'proven' may move on: by then the attestation, on which the next way back depends, is durable.
        writing = not gone and self._releases.is_due(key, progress)
        there = progress.reached.covers(wait.level) or progress.hopeless(wait.level)
        if gone or (there and not (wait.level == "proven" and writing)):
            wait.open.discard(key)
        if not wait.open:
            wait.done.set()

    def reached(self, fences: Iterable[tuple[PointerKey, Fence]]) -> tuple[Reached, float | None, float | None]:
        """(level that all have reached, ms from commit to the last flip, ms to the last proof)."""
        lowest, flipped_ms, proven_ms = Reached.PROVEN, 0.0, 0.0
        for key, fence in fences:
            entry = self._tables.entries.get(key)
            progress = self._replicas.progress(key)
            current = entry is not None and entry.fence == fence
            lowest = min(lowest, progress.reached if current else Reached.COMMITTED, key=ORDER.index)
            committed = self.committed_at.get(key)
            if current and committed is not None:
                times = self._note_times(key, fence, progress)
                flipped_ms = max(flipped_ms, ((times.flipped_at or committed) - committed) * 1000)
                proven_ms = max(proven_ms, ((times.proven_at or committed) - committed) * 1000)
        return (
            lowest,
            flipped_ms if lowest.covers(Reached.FLIPPED) else None,
            proven_ms if lowest.covers(Reached.PROVEN) else None,
        )
