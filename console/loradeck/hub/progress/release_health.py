"""How releases fare on pointers, and what this hub attests of that: attested, soaked and flagged.

An attestation is written as soon as it is seen, and believed only once it is durable.
"""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.background import Background
from loradeck.hub.log.clock import Clock
from loradeck.hub.progress.acknowledgements import PlacedReplicas, Progress
from loradeck.hub.progress.request_counts import RequestCounts, Stint
from loradeck.hub.progress.steps import KEPT_STEPS
from loradeck.hub.progress.usual_shares import UsualShares
from loradeck.hub.progress.votes import Raised, Votes
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.rollback_target import lifted_of
from loradeck.rules.quality import health
from loradeck.rules.quality.cause import Verdict, Window, decide
from loradeck.rules.quality.guard import FORWARD, Control
from loradeck.rules.quality.health import Units
from loradeck.rules.serving import proof
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.counts import STEP_S, AskedAgain, Counts
from loradeck.schemas.flag import FlagRecord
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Event, PointerState
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.progress.release_health")


class UnitsWindow(NamedTuple):
    """The counts of a release's units by replica from a time on, and the overdue ones of those that were decided.

    `since_ms`: that time, on the hub's wall clock, milliseconds since 1970 UTC.
    """

    since_ms: int
    by_replica: dict[str, Counts]
    overdue: Units


LOOKED_AT = 8
"""Replicas on which a release is compared with its neighbours at most."""

AWAY_S = 15.0
"""Seconds before a change point in which an engine that ended may have made it: its node says so somewhat later."""


@dataclass(eq=False)
class ReleaseHealth:
    """Reads request counts as the rules of breaches and soaks need them."""

    _state: FoldedLog
    _counts: RequestCounts
    _votes: Votes
    _replicas: PlacedReplicas
    _usual: UsualShares
    _last_move: Callable[[PointerState], Event | None]
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

    def raised(self, pointer: PointerState, *, stands: bool) -> Raised | None:
        """Tells which figure speaks against the current release enough to flag it; None: neither does.

        `stands`: it is flagged already.
        """
        assert pointer.release is not None
        lifted = lifted_of(pointer.release, pointer)
        stint, lift = (pointer.generation, pointer.release), lifted.breach if lifted is not None else 0
        return self._votes.raised(pointer.key, stint, lift, stands=stands)

    def verdict(self, pointer: PointerState, raised: Raised) -> tuple[Verdict, Units]:
        """Decides whose doing it is that a figure speaks against the current release.

        Returns the verdict, and the release's bad units since the change point and all of them.
        """
        assert pointer.release is not None
        key, stint, figure, since = pointer.key, (pointer.generation, pointer.release), raised.figure, raised.since
        placed, now = self._replicas.placed(key), self._clock.monotonic()
        nodes = {node.name for node, _ in placed}
        by_replica = self._votes.by_replica(key, stint, since)
        beneath = next((release for release in pointer.beneath if release != pointer.release), None)
        ended = {name: at for node, _ in placed for name, at in node.ended.items()}
        silent = {name for node, _ in placed for name in node.silent}
        window = Window(
            figure=figure,
            limit=raised.limit,
            by_node=self._votes.by_node(key, stint, figure, since),
            placed=nodes,
            control=self._control(key, stint, figure, beneath, nodes),
            callers=self._votes.callers(key, stint, figure, since),
            neighbours=self.neighbours(pointer, raised),
            age_s=now - since,
            after_move_s=self._after_move_s(pointer, now - since),
            away={
                name: units.of(figure)
                for name, units in by_replica.items()
                if units.of(figure)[0] and (name in silent or ended.get(name, -math.inf) >= since - AWAY_S)
            },
        )
        return decide(window), window.units

    def _control(
        self, key: PointerKey, stint: Stint, figure: str, beneath: str | None, nodes: Iterable[str]
    ) -> Control | None:
        """Compares with the release beneath, which was asked the same; None: it was not, or not how long it takes."""
        if beneath is None or figure not in health.FIGURES:
            return None
        return self._votes.control(key, stint, figure, beneath, nodes)

    def _after_move_s(self, pointer: PointerState, ago_s: float) -> float | None:
        """Seconds from a forward move that was the last one to what happened so many seconds ago; None: it was none."""
        last = self._last_move(pointer)
        if last is None or last.kind not in FORWARD or pointer.moved_ms is None:
            return None
        return (self._clock.now_ms() - pointer.moved_ms) / 1000 - ago_s

    def ms_of(self, second: int) -> int:
        """The hub's wall clock at a second of its monotonic one, milliseconds since 1970 UTC."""
        return max(0, self._clock.now_ms() - round(1000 * (self._clock.monotonic() - second)))

    def window(self, pointer: PointerState, since: int | None) -> UnitsWindow:
        """The current release's units by replica from a second of the hub on, of the last ten minutes at most."""
        assert pointer.release is not None
        now = self._clock.monotonic()
        begin = max(since or 0, (math.floor(now) // STEP_S - KEPT_STEPS + 1) * STEP_S)
        by_replica = self._votes.by_replica(pointer.key, (pointer.generation, pointer.release), begin)
        counts = {replica: units.counts for replica, units in by_replica.items()}
        overdue = health.total(units.of(health.OVERDUE) for units in by_replica.values())
        return UnitsWindow(self.ms_of(begin), counts, overdue)

    def neighbours(self, pointer: PointerState, raised: Raised) -> dict[str, dict[str, Units]]:
        """Returns the units since the change point of each other tenant on the pointer's replicas, by node.

        A release that is placed on many is compared on the first LOOKED_AT of them.
        """
        placed = self._replicas.placed(pointer.key)[:LOOKED_AT]
        replicas = {replica.replica: node.name for node, replica in placed}
        return self._votes.neighbours(pointer.key[0], replicas, raised.figure, raised.since)

    def units_since(self, pointer: PointerState, figure: str, since: int) -> Units:
        """The current release's bad units of a figure from a second of the hub on, and all of them."""
        assert pointer.release is not None
        return health.total(
            self._votes.by_node(pointer.key, (pointer.generation, pointer.release), figure, since).values()
        )

    def units_since_begin(self, pointer: PointerState, figure: str) -> Units:
        """The current release's bad units of a figure since the hub knows it or the last lift, and all of them."""
        assert pointer.release is not None
        return self._votes.units_since_begin(pointer.key, (pointer.generation, pointer.release), figure)

    def begin_anew(self, pointer: PointerState) -> None:
        """Drops the evidence against the current release: it is too old to say anything about now."""
        assert pointer.release is not None
        self._votes.begin_anew(pointer.key, (pointer.generation, pointer.release))

    def limit(self, pointer: PointerState, figure: str) -> float:
        """The share of a figure above which the route's release is flagged."""
        return self._votes.flag_limit(pointer.key, figure)

    def units(self, pointer: PointerState) -> int | None:
        """Counts the units of evidence among the current release's requests of the last minute; None: not known."""
        assert pointer.release is not None
        return self._votes.units(pointer.key, (pointer.generation, pointer.release))

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


Name = tuple[str, PointerKey, str, int]
"""(kind, pointer, release, generation) of an attestation."""

BATCH = 250
"""Attestations of one transaction."""

MOST_UNWRITTEN = 50_000
"""Records of flags that wait for a database that does not write."""


def _is_flag_of(attestation: Attestation, key: PointerKey, release: str) -> bool:
    where = (attestation.tenant, attestation.route)
    return attestation.kind is AttestationKind.FLAG and where == key and attestation.subject == release


@dataclass(eq=False)
class ReleaseAttestations:
    """Which pointers are still to be attested or soaked, and the attestations on their way to the store."""

    _state: FoldedLog
    _health: ReleaseHealth
    _attestations: Attestations
    _background: Background
    unattested: set[PointerKey] = field(default_factory=set, init=False)
    """Pointers whose current generation is not attested yet."""
    _unsoaked: set[PointerKey] = field(default_factory=set, init=False)
    _soak_beneath: set[PointerKey] = field(default_factory=set, init=False)
    """Pointers whose soak setting is still to be applied to the releases beneath: it is new, or the hub is."""
    _writing: set[Name] = field(default_factory=set, init=False)
    _seen: list[tuple[Attestation, Name]] = field(default_factory=list, init=False)
    _is_busy: bool = field(default=False, init=False)

    def load(self) -> None:
        """Begins with all pointers as the log has them."""
        for key, pointer in self._state.pointers.items():
            self.moved(pointer)
            self._soak_beneath.add(key)

    def moved(self, pointer: PointerState) -> None:
        """Begins anew for a pointer that has moved."""
        key, facts = pointer.key, self._attestations.facts
        self.unattested.discard(key)
        self._unsoaked.discard(key)
        if pointer.release is None:
            return
        if facts.attested_generation(key, pointer.generation) is None:
            self.unattested.add(key)
        if not facts.is_soaked(key, pointer.release):
            self._unsoaked.add(key)

    # ---- what is seen --------------------------------------------------------------------------------------

    def check(self, key: PointerKey, progress: Progress) -> None:
        """Attests a pointer's release, or that it has soaked, where that has come true."""
        if key in self.unattested:
            pointer, seen = self._state.pointers[key], self._attestable(key, progress)
            if pointer.release is not None and seen is not None:
                level = "listed" if progress.listed else "proven"
                body = {"generation": pointer.generation, "n": seen[0], "m": seen[1], "level": level}
                self._write(AttestationKind.ATTESTED, pointer, pointer.release, body)
        if key in self._unsoaked:
            self._maybe_soak_live(key)

    def is_due(self, key: PointerKey, progress: Progress) -> bool:
        """Tells whether a release is proven or listed on enough replicas, and the attestation is not durable yet."""
        return key in self.unattested and self._attestable(key, progress) is not None

    def _attestable(self, key: PointerKey, progress: Progress) -> tuple[int, int] | None:
        return proof.attested(
            placed=progress.placed,
            reachable=progress.reachable,
            checked=progress.proven + progress.listed,
            min_replicas=self._state.config(key).min_replicas,
        )

    def traffic(self, key: PointerKey) -> None:
        """Attests that the release has soaked, after the counters of a pointer grew."""
        pointer = self._state.pointers.get(key)
        if pointer is None or pointer.release is None:
            return
        if key in self._unsoaked:
            self._maybe_soak_live(key)

    def record_flag(self, pointer: PointerState, release: str, flag: FlagRecord) -> None:
        """Has a flag of a release on a pointer attested."""
        name = f"{flag.state.value} {flag.cause.value} {flag.raised_ms}"
        self._write(AttestationKind.FLAG, pointer, release, flag.model_dump(mode="json"), name)

    def forget_flags(self, key: PointerKey, release: str) -> None:
        """Forgets the records of a release's flags that are not written yet: a person has lifted them."""
        gone = {name for attestation, name in self._seen if _is_flag_of(attestation, key, release)}
        self._seen = [(attestation, name) for attestation, name in self._seen if name not in gone]
        self._writing -= gone

    def settings_changed(self, key: PointerKey) -> None:
        """Applies a route's new settings to the releases beneath: they may have soaked by these."""
        if key in self._state.pointers:
            self._soak_beneath.add(key)
            self._maybe_soak_beneath(key)

    def tick(self) -> None:
        """Attests what has soaked by time alone, and what could not be written; called once a second."""
        self._maybe_write()
        for key in list(self._unsoaked):
            self._maybe_soak_live(key)
        for key in list(self._soak_beneath):
            self._maybe_soak_beneath(key)

    def _maybe_soak_live(self, key: PointerKey) -> None:
        pointer = self._state.pointers.get(key)
        if pointer is not None and pointer.release is not None:
            self._maybe_soak(pointer, (pointer.release,))

    def _maybe_soak_beneath(self, key: PointerKey) -> None:
        pointer = self._state.pointers[key]
        if not self._maybe_soak(pointer, pointer.beneath):
            self._soak_beneath.discard(key)

    def _maybe_soak(self, pointer: PointerState, releases: Iterable[str]) -> bool:
        """Attests those of a pointer's releases that have soaked since. Returns whether there are any."""
        key = pointer.key
        known, soak = self._attestations.facts.soaked(key), self._state.config(key).soak
        new = health.newly_soaked(releases, known, soak, lambda release: self._health.served(key, release))
        for release in new:
            seconds, requests = self._health.served(key, release)
            self._write(AttestationKind.SOAKED, pointer, release, {"seconds": round(seconds, 3), "requests": requests})
        return bool(new)

    # ---- writing -------------------------------------------------------------------------------------------

    def _write(
        self, kind: AttestationKind, pointer: PointerState, release: str, body: dict[str, Any], state: str = ""
    ) -> None:
        name = (kind.value + state, pointer.key, release, pointer.generation)
        if name in self._writing:
            return
        self._writing.add(name)
        tenant, route = pointer.key
        attestation = self._attestations.draft(kind, release, tenant, body, "hub", route)
        self._seen.append((attestation, name))
        self._maybe_write()

    def _maybe_write(self) -> None:
        if self._seen and not self._is_busy:
            self._is_busy = True
            self._background.spawn(self._write_all())

    async def _write_all(self) -> None:
        """Writes many at once: a fleet that is proven all at once must not keep moves waiting."""
        try:
            while self._seen:
                batch, self._seen = self._seen[:BATCH], self._seen[BATCH:]
                try:
                    await self._attestations.add_all([attestation for attestation, _ in batch], background=True)
                except StoreError as error:
                    log.error("attestations not written n=%d code=%s %s", len(batch), error.code, error)
                    self._put_back([*batch, *self._seen])
                    return
                self._writing.difference_update(name for _, name in batch)
        finally:
            self._is_busy = False

    def _put_back(self, unwritten: Iterable[tuple[Attestation, Name]]) -> None:
        """Has flags written with the next tick. What else was not written is seen again by then."""
        self._seen = [(one, name) for one, name in unwritten if one.kind is AttestationKind.FLAG][:MOST_UNWRITTEN]
        self._writing = {name for _, name in self._seen}

    def written(self, key: PointerKey, attestation: Attestation) -> None:
        """Handles an attestation on a pointer that has become durable."""
        pointer = self._state.pointers.get(key)
        if pointer is None:
            return
        generation = attestation.body.get("generation")
        if attestation.kind is AttestationKind.ATTESTED and pointer.generation == generation:
            self.unattested.discard(key)
        if attestation.kind is AttestationKind.SOAKED and pointer.release == attestation.subject:
            self._unsoaked.discard(key)
