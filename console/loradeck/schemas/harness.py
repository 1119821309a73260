"""Other people's evaluation harnesses: the suites that name a task of one, and results that a person has sent."""

from typing import Literal

from pydantic import Field, FiniteFloat

from loradeck.schemas.ids import Digest, Strict

TASKS = 200
"""Most tasks of one file; lm-eval counts the parts of MMLU as tasks of their own."""


Harness = Literal["lm-eval", "inspect-ai"]


class HarnessTask(Strict):
    """The one row of a suite whose items are those of a harness's task, in the environment of the job's node."""

    harness: Harness
    task: str = Field(
        max_length=200,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(@[A-Za-z0-9_]+)?$",
        description="lm-eval's name of a task; of inspect-ai a file in the node's folder of tasks, and a task in it: "
        "tickets.py@tickets",
    )
    metric: str = Field(
        min_length=1, max_length=100, description="of each sample, 0 or 1: lm-eval's metric, inspect-ai's scorer"
    )
    items: int = Field(ge=1, description="the first so many, which the task must have")
    api: Literal["chat", "completions"] = Field(
        "chat", description="lm-eval: how it asks; tasks of likelihoods need completions, and an engine that scores"
    )


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
    harness: Harness
    version: str = Field(max_length=50, description="of the harness; empty where its file does not say")
    model: str = Field(max_length=300, description="the model that it says it asked")
    file: Digest = Field(description="SHA-256 of the harness's own file")
    figures: tuple[HarnessFigure, ...] = Field(min_length=1, max_length=TASKS * 4)
