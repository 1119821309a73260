"""The six counts of requests that every window and total holds, and their forms on the wire and in the log.

A request is booked in the minute in which it was attempted, and its outcome is added there. docs/decisions/0018 says
which end of a request counts as what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, SerializationInfo


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
