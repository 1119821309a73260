"""Counts of requests: the six that every window and total holds, and what routers report of them.

A request is booked in the minute in which it was attempted, and its outcome is added there. docs/decisions/0018 says
which end of a request counts as what. A route's history has the six counts by the minute or the hour. `Traffic` is what
a router counts of the requests to one release on one engine, as its agent reports it; `InputCounts` are a day's words
and lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PlainSerializer, SerializationInfo, model_validator

from loradeck.schemas.content_checks import FaultName
from loradeck.schemas.ids import Digest, Name, OfPointer, Strict, Whole, Wire, added


@dataclass(slots=True, unsafe_hash=True)
class Counts:
    """Outcomes of one release's requests over some period.

    Adding two sums them field by field. Subtracting gives the counts in between, which need not add up: a request may
    have been attempted before the earlier reading and have ended after it.

    Never changed in place. It is not frozen because that more than doubles what adding takes, and a hub adds a dozen
    for every counter of every report.
    """

    attempted: int = 0
    """Requests that reached a router for this release, in flight or over."""

    refused: int = 0
    """Requests that a router kept from every engine: nothing was ready, the tenant is suspended, the hub is lost."""

    failed: int = 0
    """Requests that the engine or the way to it failed. Bad answers are not among them."""

    finished: int = 0
    """Requests that were answered, or that their caller gave up while an answer was still to be expected."""

    checked: int = 0
    """Answers that a response check looked at."""

    bad: int = 0
    """Checked answers that failed a response check."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.attempted + other.attempted,
            self.refused + other.refused,
            self.failed + other.failed,
            self.finished + other.finished,
            self.checked + other.checked,
            self.bad + other.bad,
        )

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            self.attempted - other.attempted,
            self.refused - other.refused,
            self.failed - other.failed,
            self.finished - other.finished,
            self.checked - other.checked,
            self.bad - other.bad,
        )

    def __bool__(self) -> bool:
        return self != NO_COUNTS

    @classmethod
    def over(cls, *, refused: int = 0, failed: int = 0, finished: int = 0, checked: int = 0, bad: int = 0) -> Counts:
        """Counts of requests none of which is in flight."""
        return cls(refused + failed + finished, refused, failed, finished, checked, bad)

    @property
    def admitted(self) -> int:
        """Requests that were given to an engine."""
        return self.attempted - self.refused

    @property
    def in_flight(self) -> int:
        """Requests whose outcome is not known; of a router that has ended it never will be."""
        return self.attempted - self.refused - self.failed - self.finished

    @property
    def adds_up(self) -> bool:
        """Whether no count is negative or larger than the one that it is part of."""
        return (
            self.refused >= 0
            and self.failed >= 0
            and self.in_flight >= 0
            and 0 <= self.bad <= self.checked <= self.finished
        )

    @property
    def failed_share(self) -> float | None:
        """Failed requests of those attempted, 0 to 1; None where there were none."""
        return self.failed / self.attempted if self.attempted else None

    @property
    def refused_share(self) -> float | None:
        """Refused requests of those attempted, 0 to 1; None where there were none."""
        return self.refused / self.attempted if self.attempted else None

    @property
    def bad_share(self) -> float | None:
        """Bad answers of those checked, 0 to 1; None where none was checked."""
        return self.bad / self.checked if self.checked else None

    def without_in_flight(self) -> Counts:
        """A copy that holds only the requests that are over."""
        return self.over(
            refused=self.refused, failed=self.failed, finished=self.finished, checked=self.checked, bad=self.bad
        )

    def scaled(self, part: float) -> Counts:
        """A part (0 to 1) of the requests that are over, rounded so that it adds up, and all that are in flight."""
        finished = round(self.finished * part)
        checked = min(finished, round(self.checked * part))
        scaled = Counts.over(
            refused=round(self.refused * part),
            failed=round(self.failed * part),
            finished=finished,
            checked=checked,
            bad=min(checked, round(self.bad * part)),
        )
        return Counts(self.in_flight) + scaled

    def clipped(self) -> Counts:
        """The nearest counts that add up, for the difference of two readings."""
        finished = max(0, self.finished)
        checked = min(finished, max(0, self.checked))
        clipped = Counts.over(
            refused=max(0, self.refused),
            failed=max(0, self.failed),
            finished=finished,
            checked=checked,
            bad=min(checked, max(0, self.bad)),
        )
        return Counts(max(0, self.attempted - clipped.attempted)) + clipped


NO_COUNTS = Counts()


# ---- forms -------------------------------------------------------------------------------------------------

_FOUR = {"requests": "finished", "errors": "failed", "checked": "checked", "bad": "bad"}
"""The counts of version 0.1.0, which messages and events still hold under its names, and what they are."""


def _read(value: Any) -> Any:
    """Reads four counts, too: where none were attempted or refused, none is in flight."""
    if not isinstance(value, dict):
        return value
    six = {_FOUR.get(name, name): n for name, n in value.items()}
    over = [six.get(name, 0) for name in ("refused", "failed", "finished")]
    return {"attempted": sum(over)} | six if all(isinstance(n, int) for n in over) else six


def _sent(counts: Counts) -> dict[str, int]:
    four = {name: getattr(counts, count) for name, count in _FOUR.items()}
    return {"attempted": counts.attempted, "refused": counts.refused} | four


def _logged(counts: Counts, info: SerializationInfo) -> dict[str, int]:
    four = {name: getattr(counts, count) for name, count in _FOUR.items()}
    if info.exclude_defaults:
        four = {name: n for name, n in four.items() if n}
    return four | ({"refused": counts.refused} if counts.refused else {})


WireCounts = Annotated[Counts, BeforeValidator(_read), PlainSerializer(_sent)]
"""Counts in a message. `requests` are the finished ones and `errors` the failed ones, as version 0.1.0 reads them."""

LoggedCounts = Annotated[Counts, BeforeValidator(_read), PlainSerializer(_logged)]
"""Counts of requests that are over, as events hold them. The hashes of events of version 0.1.0 stay what they were:
`refused` is written where it is not zero, and `attempted` never, since it is the sum."""


HISTORY_MINUTES = 7 * 24 * 60
"""Minutes of which there is history by the minute."""

HISTORY_HOURS = 400 * 24
"""Hours of which there is history by the hour."""


class RouteHistory(OfPointer):
    """The answer to `GET /v1/tenants/{t}/routes/{r}/history`: requests by the minute in which the hub counted them.

    The minute that runs is not over; what its routers have reported last is up to a few seconds late. Of more than a
    week there are hours, each under its first minute.
    """

    at_ms: int = Field(description="hub's wall clock")
    since: int = Field(description="first minute that was asked for, in minutes since 1970 UTC")
    minutes: dict[int, WireCounts] = Field(
        default_factory=dict, description="minute -> counts, oldest first; minutes without requests are left out"
    )
    each: int = added(1, "minutes of which each entry has the counts", ge=1)


SECONDS_OF_VOTES = 128
"""Most seconds of votes in one row of a report."""


SecondOfVotes = tuple[Whole, Whole, Whole, Whole, Whole]
"""A second of a router's monotonic clock, and the units that were admitted in it: all, those that have failed, those
whose answers are to be checked, and those of them that are bad.

A unit is a request with the tries after it: the same caller, route and body within a minute, where the one before had
not ended or had ended badly. What fails or is bad within ten minutes of its admission counts in its second.
"""


SecondsNoticed = Annotated[tuple[tuple[Whole, Whole], ...], Field(max_length=SECONDS_OF_VOTES)]
"""Seconds of a router's monotonic clock, and of the units that were admitted in each, how many a check has noticed."""


SecondsAsked = Annotated[tuple[tuple[Whole, Whole, Whole], ...], Field(max_length=SECONDS_OF_VOTES)]
"""Seconds of a router's clock in which units were admitted: how many a check was asked of, and has noticed.

The clock is monotonic; the check sees only some of the units.
"""


BINS = 64
"""Bins into which the keys of an arm are put by a hash, so that sums tell how far the answers to one key are alike."""


STEP_S = 10
"""Seconds of one step, over which units are counted by caller, and of which a curve of ten minutes is drawn."""


CALLERS_OF_STEP = 8
"""Bins of callers of one step that a router names: those with the most failed and bad units."""


StepOfCaller = tuple[Whole, Annotated[int, Field(ge=0, lt=BINS)], Whole, Whole, Whole, Whole]
"""The units of one bin of callers that were admitted in a step of a router's monotonic clock.

They are (step, bin, units, failed, checked, bad). The step is the second over STEP_S, rounded down. The bin is the
CRC-32 of the caller modulo BINS, so that every router puts a caller into the same one. Bins without a failed or bad
unit are left out. The bins of a step stand in one row all together, and replace what was said of that step before.
"""


SecondsOverdue = Annotated[tuple[tuple[Whole, Whole, Whole], ...], Field(max_length=SECONDS_OF_VOTES)]
"""Seconds of a router's monotonic clock, the units of which it was decided in each whether they are overdue, and how
many are.

A unit is overdue that has not ended so long after its admission that nearly all answers of its route have: 1.5 times
their 99th percentile, as it was known at its admission. That is decided once of each unit, in the first whole second
after that time, so that units of one kind are decided in the order of their admission. One that has failed by then is
in time; one that nobody waits for any longer is left out.
"""


class AskedAgain(Wire):
    """What another release than the live one made of requests that it was asked again; nobody got its answers.

    The other one lies beneath the live one, or is a candidate that shadows it. Pairs of answers to the same units, in
    the order of their admission: (of the live release, of the other one). They only grow while that is the same.
    """

    release: Digest = Field(description="the other one")
    asked: Whole = Field(0, description="units that it was asked")
    shed: Whole = Field(0, description="units that it was not asked, since callers came first")
    pairs: Whole = Field(0, description="units that both have answered, or failed to")
    failed: tuple[Whole, Whole] = (0, 0)
    checked: Whole = Field(0, description="pairs of which both answers were checked")
    bad: tuple[Whole, Whole] = (0, 0)

    @property
    def adds_up(self) -> bool:
        """Whether no count is negative or larger than the one that it is part of."""
        parts = (*self.failed, self.checked)
        return (
            min(*parts, *self.bad, self.shed) >= 0
            and max(parts) <= self.pairs <= self.asked
            and max(self.bad) <= self.checked
        )


CALLERS_NAMED = 64
"""Most callers of a deprecated release that one counter names."""


CALLER_CHARS = 16
"""Characters of the digest of a caller's key by which the caller is named."""


CallerDigest = Annotated[str, Field(max_length=CALLER_CHARS)]
"""The beginning of the SHA-256 of a caller's key, in hexadecimal."""


FAULTS = 64
"""Most checks by whose name bad answers are counted."""


Bin = tuple[Whole, Whole, Whole, Whole]
"""The units of a bin: all that were admitted, those that have failed, those whose answers are to be checked, and those
of them that are bad."""


class ArmOutcomes(Wire):
    """What became of the requests of one arm of a candidate's pointer since its share was changed last.

    Sums only grow during a step. Keys that are named, and requests that could not have been given either arm, do not
    count.
    """

    step: Whole = Field(description="of the split under which the requests were admitted")
    keys: Whole = Field(description="different keys, at least: they are told apart by their places")
    bins: tuple[tuple[Whole, Bin], ...] = Field((), max_length=BINS, description="(number, sums) of those with units")


class Traffic(OfPointer):
    """Counters of one (route, generation, release, replica) since the router started; they only grow."""

    generation: Whole
    release: Digest
    replica: Name
    attempted: Whole | None = Field(None, description="None: from a router of version 0.1.0, which refused in silence")
    refused: Whole = 0
    admitted: Whole = Field(0, description="given to an engine, also those that were then taken back unanswered")
    finished: Whole = 0
    errors: Whole = Field(0, description="failed requests, under the name that version 0.1.0 reads; never bad answers")
    checked: Whole = 0
    bad: Whole = 0
    faults: dict[FaultName, Whole] = added(dict, "the bad ones by the check that they failed", max_length=FAULTS)
    noticed: dict[FaultName, Whole] = added(
        dict,
        "checked answers by the checks that they failed which make none bad; one may have failed several",
        max_length=FAULTS,
    )
    judged: dict[FaultName, Whole] = added(
        dict, "checked answers by what came of asking the route's judge (`schemas.judge.Judgement`)", max_length=FAULTS
    )
    streams: Whole = Field(0, description="open right now (a gauge)")
    first_ms: Whole = 0
    last_admitted_ms: Whole = 0
    last_token_ms: Whole = 0
    keys: Whole = added(0, "of a candidate: different keys that asked for its pointer since its start, at least")
    ttft_ms: tuple[Whole, ...] = Field(
        (), max_length=64, description="counts by TTFT_BUCKETS_MS, the last one unbounded"
    )
    token_ms: tuple[Whole, ...] = Field(
        (),
        max_length=64,
        exclude_if=lambda counts: not any(counts),
        description="of streamed answers with several tokens: counts by TOKEN_BUCKETS_MS, the last one unbounded",
    )
    votes: tuple[SecondOfVotes, ...] = added(
        (),
        "the seconds that have changed of late, each whole: it replaces what was said of it before",
        max_length=SECONDS_OF_VOTES,
    )
    noticed_votes: dict[FaultName, SecondsNoticed] = added(
        dict, "of the seconds in `votes`: units that a check has noticed which makes none bad", max_length=FAULTS
    )
    asked: dict[FaultName, Whole] = added(
        dict, "checked answers that went to a check which may not see all of them", max_length=FAULTS
    )
    asked_votes: dict[FaultName, SecondsAsked] = added(
        dict, "of the seconds in `votes`: units of checks that make none bad and do not see all", max_length=FAULTS
    )
    callers: Whole = added(0, "different callers who had a unit, up to a hundred")
    caller_votes: tuple[StepOfCaller, ...] = added(
        (),
        "the steps that have changed of late, by callers with failed or bad units: a step replaces what was said of it",
        max_length=SECONDS_OF_VOTES,
    )
    overdue_votes: SecondsOverdue = added((), "the seconds in which it was decided of late what is overdue, each whole")
    overdue_ms: tuple[Whole, Whole] = added(
        (0, 0), "after how many milliseconds a streamed answer is overdue now, and one that is not; 0: not known yet"
    )
    again: AskedAgain | None = added(
        None, "what the release beneath it, or a candidate in its shadow, made of a sample of its requests"
    )
    noise: AskedAgain | None = added(
        None, "beside a shadow: what it made itself of a sample of its own requests, asked a second time (A/A)"
    )
    tokens: Whole = added(0, "of its admitted requests, as callers' limits count them: at most")
    called_by: dict[CallerDigest, Whole] = added(
        dict, "of a deprecated release: who called it of late -> when last, node's wall clock", max_length=CALLERS_NAMED
    )
    arm: ArmOutcomes | None = added(None, "while a candidate is out: outcomes by key, of either arm")

    @property
    def counts(self) -> Counts:
        """The six counts. A router that does not know of them is taken to have none in flight."""
        over = self.refused + self.errors + self.finished
        attempted = over if self.attempted is None else self.attempted
        return Counts(attempted, self.refused, self.errors, self.finished, self.checked, self.bad)


TTFT_BUCKETS_MS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
"""Upper bounds of the buckets of time to first token, in milliseconds."""


TOKEN_BUCKETS_MS = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)
"""Upper bounds of the buckets of the mean time between two tokens of an answer, in milliseconds."""


class ColdFigures(Wire):
    """Requests for on-demand routes at one router since it started, and those of them whose release was not loaded."""

    asked: Whole = Field(0, description="requests for on-demand routes")
    cold: Whole = Field(0, description="those that were admitted once their release had been loaded")
    refused: Whole = Field(0, description="those for which the queue had no room")
    minute: Whole = Field(0, description="`cold` of the last minute")
    waiting: Whole = Field(0, description="requests that wait now")
    hinted: Whole = added(0, "loads that a gateway has asked for, as a request was coming")


WORDS, LENGTHS, CLASSES = 1024, 16, 64
"""Buckets of words by their CRC-32, of lengths by their power of two, and of short answers by their CRC-32."""

MOST_INPUTS = 10**9
"""Requests that a day of a route counts at most."""

MOST_INPUTS_AT_ONCE = 2_000
"""Requests that a node brings in at once at most: its router counts some 450 of a route in a quarter of an hour."""

_Count = Annotated[int, Field(ge=0, le=MOST_INPUTS)]


class InputCounts(Strict):
    """Counts over some requests of one day. Adding those of the same day and route sums them, up to MOST_INPUTS.

    A bucket of words holds about a thousandth of all words there are, so that it names none. Whoever guesses a word can
    see whether its bucket was common, and no more.
    """

    route: Name
    day: int = Field(ge=0, le=10**6, description="days since 1970 UTC")
    requests: _Count = Field(description="that were looked at: a sample")
    words: tuple[_Count, ...] = Field(
        min_length=WORDS, max_length=WORDS, description="requests with a word of the bucket in them"
    )
    lengths: tuple[_Count, ...] = Field(
        min_length=LENGTHS, max_length=LENGTHS, description="requests by the power of two of their characters"
    )
    classes: tuple[_Count, ...] = Field(
        min_length=CLASSES, max_length=CLASSES, description="answers of one short line, by the bucket of the whole"
    )

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if max(*self.words, sum(self.lengths), sum(self.classes)) > self.requests:
            raise ValueError("more was counted than there were requests")
        return self

    def __add__(self, other: Self) -> Self:
        if self.requests + other.requests > MOST_INPUTS:
            return self  # cut to MOST_INPUTS one by one, buckets would no longer add up to the requests

        def sums(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(a + b for a, b in zip(one, two, strict=True))

        summed = {name: sums(getattr(self, name), getattr(other, name)) for name in ("words", "lengths", "classes")}
        return self.model_copy(update={"requests": self.requests + other.requests, **summed})
