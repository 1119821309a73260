"""The verdict on a claim: held, broken by a counterexample, or inconclusive for lack of evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum


class Verdict(StrEnum):
    """How a claim, or a whole run, came out."""

    HELD = "held"
    BROKEN = "broken"
    INCONCLUSIVE = "inconclusive"


EXIT_STATUS: Mapping[Verdict, int] = {Verdict.HELD: 0, Verdict.BROKEN: 1, Verdict.INCONCLUSIVE: 3}
"""Exit status of the demo by its verdict. 2 is a usage error, and 128 + N is an end by signal N."""


def of_claim(counterexamples: Sequence[str], missing: Sequence[str]) -> Verdict:
    """The verdict on one claim.

    Args:
        counterexamples: observations that contradict the claim. One of them breaks it, whatever else is missing.
        missing: evidence that was needed and could not be gathered, one reason each.
    """
    if counterexamples:
        return Verdict.BROKEN
    return Verdict.INCONCLUSIVE if missing else Verdict.HELD


def of_run(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a run: broken if any claim is, held if all are, inconclusive otherwise or without a claim."""
    found = set(verdicts)
    if Verdict.BROKEN in found:
        return Verdict.BROKEN
    return Verdict.HELD if found == {Verdict.HELD} else Verdict.INCONCLUSIVE
