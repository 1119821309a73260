"""Leaks: how often a release reproduces rows that it was trained on, beside its base alone."""

from pydantic import Field, FiniteFloat

from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.ids import Digest, Line, Strict, Whole

NAMED = 20
"""Rows that a report names; the others are counted."""


class LeakReport(Strict):
    """Rows of a release's datasets, begun and continued greedily by the release and by its base alone.

    A row is reproduced if the continuation is the rest of it, as `measure` says.
    """

    release: Digest
    datasets: tuple[Digest, ...] = Field(min_length=1)
    n: Whole = Field(description="rows that were continued")
    both: Whole = Field(description="reproduced by both")
    only_release: Whole = Field(description="reproduced by the release and not by the base")
    only_base: Whole = Field(description="the reverse")
    rows: tuple[Digest, ...] = Field((), max_length=NAMED, description="of those that only the release reproduces")
    measure: Line
    engine: EngineBuild | None = Field(None, description="that answered; None: transformers, in process")
    seconds: FiniteFloat
