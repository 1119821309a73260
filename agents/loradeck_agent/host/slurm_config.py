"""The `[slurm]` table of a submit host: the node's jobs run on a Slurm cluster instead of on the node."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from loradeck.schemas.ids import Strict

OPTIONS = (
    "constraint",
    "exclude",
    "licenses",
    "mem",
    "mem-per-cpu",
    "mem-per-gpu",
    "nice",
    "nodelist",
    "qos",
    "reservation",
    "tmp",
    "wckey",
)
"""Options of sbatch that a configuration may set. What identifies, starts, ends or repeats a job is the agent's."""

Word = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=200)]
"""A value of an option: printable, and without spaces."""


class SlurmConfig(Strict):
    """How jobs are submitted. What is named here lies at the same path on this host and on the cluster's nodes."""

    scratch: Path = Field(description="folder for jobs, inputs and checkpoints; in it the agent makes one of its own")
    bases: tuple[Path, ...] = Field(min_length=1, max_length=64, description="folders of base models for jobs")
    partition: Word | None = None
    account: Word | None = None
    minutes: int | None = Field(None, ge=2, description="time limit; None: the partition's own")
    gres: Word | None = Field(None, description="what each process gets one of, as gpu or gpu:h100; None: CPUs only")
    processes_per_node: int = Field(1, ge=1, le=64, description="a recipe with more runs on several nodes")
    at_once: int = Field(16, ge=1, le=1000, description="jobs that run or wait in Slurm's queue at once")
    python: Path | None = Field(None, description="Python with loradeck's extra `train`; None: the agent's own")
    bin: Path | None = Field(None, description="folder of sbatch, srun, scontrol, squeue, scancel; None: found by PATH")
    options: dict[str, Word] = Field(default_factory=dict, description="further options of sbatch")

    @field_validator("options")
    @classmethod
    def _are_none_of_the_agents(cls, options: dict[str, str]) -> dict[str, str]:
        for name in options:
            if name not in OPTIONS:
                raise ValueError(f"{name!r} cannot be set here; these can: {', '.join(OPTIONS)}")
        return options
