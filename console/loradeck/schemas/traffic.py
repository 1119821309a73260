"""What a router counts of the requests to one release on one engine, as its agent reports it."""

from typing import Annotated

from pydantic import Field

from loradeck.schemas.content_checks import FaultName
from loradeck.schemas.counts import Counts
from loradeck.schemas.ids import Digest, Name, OfPointer, Whole, Wire, added

SECONDS_OF_VOTES = 128
"""Most seconds of votes in one row of a report."""


SecondOfVotes = tuple[Whole, Whole, Whole, Whole, Whole]
"""A second of a router's monotonic clock, and the units that were admitted in it: all, those that have failed, those
whose answers are to be checked, and those of them that are bad.

A unit is a request with its repetitions: the same caller, route and body, apart from digits and case, within a minute.
"""


SecondsNoticed = Annotated[tuple[tuple[Whole, Whole], ...], Field(max_length=SECONDS_OF_VOTES)]
"""Seconds of a router's monotonic clock, and of the units that were admitted in each, how many a check has noticed."""


SecondsAsked = Annotated[tuple[tuple[Whole, Whole, Whole], ...], Field(max_length=SECONDS_OF_VOTES)]
"""Seconds of a router's clock in which units were admitted: how many a check was asked of, and has noticed.

The clock is monotonic; the check sees only some of the units.
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


BINS = 64
"""Bins into which the keys of an arm are put by a hash, so that sums tell how far the answers to one key are alike."""


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
