"""Flags on live releases: raised where their answers are bad, with the cause, and ended when the evidence is gone.

What a flag rules out is attested, and believed once that is durable (`loradeck.schemas.flag`).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor

from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock
from loradeck.hub.progress.release_health import ReleaseHealth
from loradeck.hub.progress.request_counts import Stint
from loradeck.hub.progress.votes import Raised
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.rollback_target import breach_of, doubt_of
from loradeck.rules.quality.cause import Verdict
from loradeck.rules.quality.guard import CONFIDENCE_Z
from loradeck.rules.quality.health import Units
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.flag import FlagCause, FlagRecord, FlagState
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import PointerState

log = logging.getLogger("loradeck.hub.progress.flags")

DOUBT_S = 10.0
"""Seconds for which the cause of a flag is looked for before the release is doubted."""

RECORDS_AN_HOUR = 20
"""Records of one release's flags in an hour at most, beside one that rules it out."""

DURABLE_S = 60.0
"""Seconds in which a record becomes durable, for which what has ended is looked at all the same."""

DECISIONS = 50
"""Causes that are decided anew in a second at most: a base that is bad flags its whole fleet at once."""

Record = Callable[[PointerState, str, FlagRecord], None]
"""Has a record attested of a release on a pointer."""


@dataclass(slots=True)
class Flag:
    """A flag that is raised now on a pointer's live release. Seconds are the hub's monotonic clock's."""

    stint: Stint
    raised: Raised
    verdict: Verdict
    units: Units
    """Bad units since the change point, and all of them, when the last bad one was counted."""
    at: float
    at_ms: int
    """When it was raised, on the hub's wall clock, milliseconds since 1970."""
    recorded: FlagCause | None = None
    """The cause that was recorded last; None: nothing was yet."""


@dataclass(eq=False)
class Flags:
    """The flags that are raised now, and the releases whose flags have ended and are not cleared."""

    _state: FoldedLog
    _health: ReleaseHealth
    _facts: Facts
    _changes: Changes
    _clock: Clock
    _record: Record
    now: dict[PointerKey, Flag] = field(default_factory=dict, init=False)
    _ended: dict[PointerKey, tuple[Units, float]] = field(default_factory=dict, init=False)
    """Pointer whose live release has a flag that ended -> what its units of that figure were then, and when it was."""
    _records: dict[PointerKey, list[float]] = field(default_factory=dict, init=False)
    """Pointer -> when records of its live release were written within the last hour."""
    _due: list[PointerKey] = field(default_factory=list, init=False)

    def moved(self, pointer: PointerState) -> None:
        """Begins anew for a pointer that has moved. What was not recorded of its flag is recorded now."""
        key = pointer.key
        self._ended.pop(key, None)
        self._records.pop(key, None)
        flag = self.now.get(key)
        if flag is not None and flag.stint != (pointer.generation, pointer.release):
            del self.now[key]
            # The word of one node among others leaves no doubt: nobody shall steer moves by a lie just before one.
            if flag.verdict.cause is not FlagCause.UNKNOWN or not flag.verdict.who or flag.recorded is not None:
                self._note(pointer, flag, FlagState.ENDED, "the pointer has moved")
        if pointer.release is not None and self._stands(pointer) is not None:
            self._ended[key] = (0, 0), self._clock.monotonic()

    def load(self) -> None:
        """Begins with all pointers as the log has them."""
        for pointer in self._state.pointers.values():
            self.moved(pointer)

    def lifted(self, key: PointerKey, release: str) -> None:
        """Ends the flag of a pointer's live release where a person has lifted it: from now on it is judged anew."""
        if self._state.pointers[key].release != release:
            return
        self._ended.pop(key, None)
        if self.now.pop(key, None) is not None:
            log.warning("flag lifted tenant=%s route=%s", *key)
            self.look(key)
            self._changes.soon((key,))

    def look(self, key: PointerKey) -> Raised | None:
        """Raises or ends the flag of a pointer, after its counters grew. Returns what speaks against its release."""
        pointer = self._state.pointers.get(key)
        if pointer is None or pointer.release is None:
            return None
        flag = self.now.get(key)
        raised = self._health.raised(pointer, stands=flag is not None)
        if raised is None:
            if flag is not None:
                self._end(pointer, flag)
        elif flag is None:
            verdict, units = self._health.verdict(pointer, raised)
            flag = self.now[key] = Flag(
                (pointer.generation, pointer.release),
                raised,
                verdict,
                units,
                self._clock.monotonic(),
                self._clock.now_ms(),
            )
            self._ended.pop(key, None)
            log.warning("flag raised tenant=%s route=%s %s", *key, self._of(flag, FlagState.RAISED))
            self._maybe_note(pointer, flag)
            self._changes.soon((key,))
        return raised

    def against(self, pointer: PointerState) -> str:
        """Says what is held against a live release whose flag has ended; '': nothing."""
        return str(self._stands(pointer) or "") if pointer.release is not None else ""

    def tick(self) -> None:
        """Decides causes anew, and ends or clears what is over; called once a second."""
        self._due = self._due or list(self.now)
        due, self._due = self._due[:DECISIONS], self._due[DECISIONS:]
        for key in due:
            raised, flag = self.look(key), self.now.get(key)
            if raised is not None and flag is not None:
                self._decide(self._state.pointers[key], flag, raised)
        for key in list(self._ended):
            self._maybe_clear(self._state.pointers[key])

    def _decide(self, pointer: PointerState, flag: Flag, raised: Raised) -> None:
        """Looks for the cause of a flag again. An unknown one does not take the place of one that was found."""
        verdict, units = self._health.verdict(pointer, raised)
        if not units[1]:
            self._end(pointer, flag, "nothing was asked for ten minutes")
            self._health.begin_anew(pointer)
            return
        before = flag.verdict
        if units[0] > flag.units[0]:
            flag.units = units
        if verdict.cause is not FlagCause.UNKNOWN or raised.figure != flag.raised.figure:
            flag.raised, flag.verdict = raised, verdict
        elif before.cause is FlagCause.UNKNOWN:
            flag.verdict = verdict  # it may rest on more than one node's word by now
        if before != flag.verdict:
            self._changes.soon((pointer.key,))
        if before.cause is not flag.verdict.cause:
            record = self._of(flag, FlagState.RAISED)
            log.warning("flag of another cause tenant=%s route=%s %s", *pointer.key, record)
        self._maybe_note(pointer, flag)

    def _end(self, pointer: PointerState, flag: Flag, why: str = "") -> None:
        key, figure = pointer.key, flag.raised.figure
        self.now.pop(key, None)
        bad, n = self._health.units_since(pointer, figure, floor(self._clock.monotonic()) - 60)
        why = why or f"{figure} {bad} of {n} in the last minute"
        log.warning("flag ended tenant=%s route=%s %s", *key, why)
        if flag.recorded is not None or flag.verdict.cause is FlagCause.RELEASE:
            self._note(pointer, flag, FlagState.ENDED, why)
            self._ended[key] = self._health.units_since_begin(pointer, figure), self._clock.monotonic()
        self._changes.soon((key,))

    def _maybe_note(self, pointer: PointerState, flag: Flag) -> None:
        """Records a flag once its cause is the release, or was looked for long enough, and when it is another one."""
        cause = flag.verdict.cause
        if cause is flag.recorded:
            return
        waited = self._clock.monotonic() - flag.at >= DOUBT_S
        if cause is FlagCause.RELEASE or waited or flag.recorded is not None:
            self._note(pointer, flag, FlagState.RAISED)

    def _note(self, pointer: PointerState, flag: Flag, state: FlagState, why: str = "") -> None:
        key, now = pointer.key, self._clock.monotonic()
        lately = [at for at in self._records.get(key, ()) if at > now - 3600]
        rules_out = flag.verdict.cause is FlagCause.RELEASE and state is FlagState.RAISED
        if len(lately) >= RECORDS_AN_HOUR and not (rules_out and self._stands(pointer) is None):
            return  # it comes and goes; what it has ruled out stays so
        self._records[key] = [*lately, now]
        flag.recorded = flag.verdict.cause
        self._record(pointer, flag.stint[1], self._of(flag, state, why))

    def _of(self, flag: Flag, state: FlagState, why: str = "") -> FlagRecord:
        since_s = self._clock.monotonic() - flag.raised.since
        return FlagRecord(
            state=state,
            figure=flag.raised.figure,
            bad=flag.units[0],
            n=flag.units[1],
            raised_ms=flag.at_ms,
            since_ms=max(0, self._clock.now_ms() - round(1000 * since_s)),
            cause=flag.verdict.cause,
            who=flag.verdict.who,
            why=why,
        )

    def _stands(self, pointer: PointerState) -> FlagRecord | None:
        """The newest record of a live release's flag that is held against it; None: nothing is."""
        assert pointer.release is not None
        record = self._facts.flag(pointer.key, pointer.release)
        if record is None:
            return None
        facts = self._facts.of(pointer.key)
        against = breach_of(pointer.release, pointer, facts) or doubt_of(pointer.release, pointer, facts)
        return record if against is not None else None

    def _maybe_clear(self, pointer: PointerState) -> None:
        """Clears a release whose flag has ended, once as many good answers as its flag had speak for it at least.

        That they do is the upper bound of their share, with a confidence of 99.9 %, at most at the route's limit.
        """
        key = pointer.key
        record = self._stands(pointer) if pointer.release is not None else None
        before, at = self._ended[key]
        if record is None:
            if self._clock.monotonic() - at > DURABLE_S:  # what was recorded last is durable by then
                del self._ended[key]
            return
        (bad, n) = self._health.units_since_begin(pointer, record.figure)
        bad, n = bad - before[0], n - before[1]
        if n < 0:  # a lift has begun to count anew
            self._ended[key] = (0, 0), at
        elif n >= record.n and n and wilson(bad, n, z=CONFIDENCE_Z)[1] <= self._health.limit(pointer, record.figure):
            assert pointer.release is not None
            del self._ended[key]
            why = f"{record.figure} {bad} of {n} since it has ended"
            log.warning("flag cleared tenant=%s route=%s %s", *key, why)
            self._record(pointer, pointer.release, record.model_copy(update={"state": FlagState.CLEARED, "why": why}))
            self._changes.soon((key,))
