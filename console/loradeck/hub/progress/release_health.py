"""The counts of a release's requests on a pointer that are held against it, and how long it has served there."""

from dataclasses import dataclass

from loradeck.hub.log.clock import Clock
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.hub.progress.usual_shares import UsualShares
from loradeck.hub.progress.votes import NOTHING, Votes
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.rollback_target import lifted_of
from loradeck.rules.quality import health
from loradeck.schemas.counts import Counts
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import PointerState
from loradeck.schemas.traffic import AskedAgain


@dataclass(eq=False)
class ReleaseHealth:
    """Reads request counts as the rules of breaches and soaks need them."""

    _state: FoldedLog
    _counts: RequestCounts
    _votes: Votes
    _replicas: PlacedReplicas
    _usual: UsualShares
    _clock: Clock

    def counted(self, pointer: PointerState) -> Counts:
        """Counts all requests to the current release in this generation."""
        assert pointer.release is not None
        return self._counts.live_total(pointer.key, pointer.generation, pointer.release)

    def live(self, pointer: PointerState) -> Counts:
        """The requests in this generation that are held against the current release: none from before a lift."""
        assert pointer.release is not None
        lifted = lifted_of(pointer.release, pointer)
        counted = self.counted(pointer)
        here = lifted is not None and lifted.generation == pointer.generation
        return health.since(counted, lifted.live) if lifted is not None and here else counted

    def judged(self, pointer: PointerState) -> health.Judged:
        """Tells whether the current release is past a limit, and by the figures of which nodes.

        What a node counted before a lift is not known, so all that it counted is taken off where the others are judged.
        """
        assert pointer.release is not None
        key, lifted = pointer.key, lifted_of(pointer.release, pointer)
        stint, lift = (pointer.generation, pointer.release), lifted.breach if lifted is not None else 0
        judged = self._votes.judged(key, stint, lambda: self._placed_on(key), lift)
        if judged is not NOTHING:
            return judged
        limit, total = self._state.config(key).breach, self.live(pointer)
        if health.breached(total, limit) is None:  # as nearly always: then nobody is asked
            return health.Judged()
        by_node = self._counts.live_by_node(key, pointer.generation, pointer.release)
        return health.breach_by_node(total, by_node, self._placed_on(key), limit)

    def slow(self, pointer: PointerState) -> tuple[str, ...]:
        """Says what of the current release's answers comes later than its route promises."""
        assert pointer.release is not None
        return self._votes.slow(pointer.key, (pointer.generation, pointer.release))

    def drift(self, pointer: PointerState) -> tuple[str, ...]:
        """Says which promises that only alert are broken: by what checks notice, and by the route over days."""
        assert pointer.release is not None
        stint = (pointer.generation, pointer.release)
        noticed = self._votes.drift(pointer.key, stint, lambda: self._placed_on(pointer.key))
        return (*noticed, *self.burning(pointer.key), *self._usual.overspent(pointer.key))

    def burning(self, key: PointerKey) -> tuple[str, ...]:
        """Says what spends the error budget of a route within days."""
        return self._usual.burning(key)

    def asked_again(self, pointer: PointerState, other: str) -> AskedAgain | None:
        """The answers of another release, or its own second ones, to the current release's requests; None: none."""
        assert pointer.release is not None
        return self._votes.asked_again(pointer.key, (pointer.generation, pointer.release), other)

    def _placed_on(self, key: PointerKey) -> set[str]:
        return {node.name for node, _ in self._replicas.placed(key)}

    def counted_total(self, key: PointerKey, release: str) -> Counts:
        """Counts all requests to a release on a pointer that are over, in all the time it was current."""
        return self._counts.total(key, release).counts

    def total(self, pointer: PointerState, release: str) -> Counts:
        """Counts all requests to a release on a pointer that are over and held against it."""
        counted, lifted = self.counted_total(pointer.key, release), lifted_of(release, pointer)
        return health.since(counted, lifted.total) if lifted is not None else counted

    def served(self, key: PointerKey, release: str) -> tuple[float, int]:
        """(seconds, answers) that a release has served on a pointer, its current stint included."""
        pointer = self._state.pointers.get(key)
        total = self._counts.total(key, release)
        seconds, answers = total.seconds, total.counts.finished
        if pointer is not None and pointer.release == release:
            now_ms = self._clock.now_ms()
            seconds += max(0, now_ms - (pointer.moved_ms or now_ms)) / 1000
            # Totals miss the answers of the time without a hub; the routers' own counters do not.
            answers = max(answers, self.counted(pointer).finished)
        return seconds, answers

    def leave(self, before: PointerState, at_ms: int, now: float) -> Counts:
        """Ends the stint of the release that a move at `at_ms` leaves. Returns the counts that its share of bad is of.

        They are taken over the last minute, or over all its time where nothing was checked in that minute.
        `now` is monotonic seconds.
        """
        key, left = before.key, before.release
        assert left is not None
        recent = self._counts.minute(key, before.generation, left, now)
        counts = recent if recent.checked else self.total(before, left)
        self._counts.left(key, left, (at_ms - (before.moved_ms or at_ms)) / 1000, before.generation)
        return counts
