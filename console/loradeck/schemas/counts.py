"""How many requests a release answered, and how well: the four counts that every window and total holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Outcomes of one release's requests over some period.

    Adding two sums them field by field. Subtracting gives the counts in between, and may be negative unless the two are
    a later and an earlier reading of one counter.
    """

    requests: int = 0
    """Answers that were finished. A request that failed is not among them."""

    errors: int = 0
    """Requests that the engine or the way to it failed; bad answers are not among them."""

    checked: int = 0
    """Answers that a response check looked at."""

    bad: int = 0
    """Checked answers that failed a response check."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.checked + other.checked,
            self.bad + other.bad,
        )

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            self.requests - other.requests,
            self.errors - other.errors,
            self.checked - other.checked,
            self.bad - other.bad,
        )

    def __bool__(self) -> bool:
        return bool(self.requests or self.errors or self.checked or self.bad)

    def at_least_zero(self) -> Counts:
        """A copy with every negative count set to zero."""
        return Counts(max(0, self.requests), max(0, self.errors), max(0, self.checked), max(0, self.bad))


NO_COUNTS = Counts()
