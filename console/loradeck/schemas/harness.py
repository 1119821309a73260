"""Results of other people's evaluation harnesses, as they are kept with a release: information, and no gate's."""

from typing import Literal

from pydantic import Field, FiniteFloat

from loradeck.schemas.ids import Digest, Strict

TASKS = 200
"""Most tasks of one file; lm-eval counts the parts of MMLU as tasks of their own."""


class HarnessFigure(Strict):
    """One figure of one task: `acc` of `mmlu`, with its standard error where the harness states one."""

    task: str = Field(min_length=1, max_length=200)
    version: str = Field("", max_length=50, description="of the task")
    name: str = Field(min_length=1, max_length=100)
    value: FiniteFloat
    stderr: FiniteFloat | None = None
    n: int | None = Field(None, ge=0, description="items")


class HarnessReport(Strict):
    """Figures that a harness computed for a release, elsewhere, and that a person has sent."""

    release: Digest
    harness: Literal["lm-eval", "inspect-ai"]
    version: str = Field(max_length=50, description="of the harness; empty where its file does not say")
    model: str = Field(max_length=300, description="the model that it says it asked")
    file: Digest = Field(description="SHA-256 of the harness's own file")
    figures: tuple[HarnessFigure, ...] = Field(min_length=1, max_length=TASKS * 4)
