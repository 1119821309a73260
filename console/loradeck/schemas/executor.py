"""Documents between an agent and an executor, the process that runs a job: its spec, events and exit statuses."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.ids import Digest, Line, Strict, Whole, Wire, json_bytes
from loradeck.schemas.jobs import JobSpec, Metrics
from loradeck.schemas.manifest import Release

EXIT_OK = 0
EXIT_BAD_SPEC = 65
EXIT_DIVERGED = 70
EXIT_OUT_OF_MEMORY = 71
EXIT_PREEMPTED = 75
"""Exit statuses of an executor. 0 counts only with a terminal event and a verified manifest."""


class ExecutorEventType(StrEnum):
    """Types of `ExecutorEvent`, by which an executor reports how its job goes."""

    STARTED = "started"
    PROGRESS = "progress"
    HEARTBEAT = "heartbeat"
    CHECKPOINT = "checkpoint"
    FINISHED = "finished"  # terminal
    FAILED = "failed"  # terminal
    PREEMPTED = "preempted"  # terminal


TERMINAL = frozenset({ExecutorEventType.FINISHED, ExecutorEventType.FAILED, ExecutorEventType.PREEMPTED})
"""Types of a run's last event."""


DATA_BYTES = 256 * 1024
"""Most bytes of what an event says beside its fields: the files of a checkpoint, the end of a log."""


class ExecutorEvent(Wire):
    """One JSON line of an executor's event file, which the agent reads and passes on to the hub."""

    v: Literal[1] = 1
    run: Line
    attempt: Whole
    seq: Whole
    ts: FiniteFloat = Field(description="seconds since 1970 UTC, executor's clock")
    type: ExecutorEventType
    step: Whole | None = None
    of: Whole | None = None
    metrics: Metrics = Field(default_factory=dict, description="loss, grad_norm, tokens_per_second, ...")
    message: Line = ""
    code: Line | None = Field(None, description="with FAILED: bad_data, diverged, out_of_memory, ...")
    data: Annotated[dict[str, Any], json_bytes(DATA_BYTES)] = Field(default_factory=dict)


class EngineDoor(Strict):
    """Where an evaluation's executor asks the engine that serves: a Unix socket of the agent's, for one release."""

    replica: str
    socket: str
    build: EngineBuild
    scores: bool = Field(description="whether the engine says how likely it finds given tokens")


class ExecutorSpec(Strict):
    """The `spec.json` with which an agent starts an executor. It uses these local folders and nothing else."""

    v: Literal[1] = 1
    run: str
    attempt: int
    spec: JobSpec
    base: str = Field(description="folder of the base model")
    base_digest: Digest
    inputs: dict[str, str] = Field(description="digest of a dataset, suite or adapter -> its folder or file")
    release: Release | None = Field(None, description="evaluate and merge: the release of the job, by its parts")
    engine: EngineDoor | None = Field(None, description="evaluate, leak, train: the engine that is asked; None: none")
    teacher: EngineDoor | None = Field(None, description="train: the engine that serves the teacher")
    doors: dict[Digest, EngineDoor] = Field(
        default_factory=dict,
        description="generate, judge: release -> the engine that is asked for it; a judge's settings -> its address",
    )
    harnesses: dict[str, tuple[str, str]] = Field(
        default_factory=dict, description="evaluate: harness -> its Python, and its folder of tasks"
    )
    canaries: tuple[tuple[dict[str, str], ...], ...] = ()
    out: str = Field(description="folder for results; made by the executor, complete only when it has finished")
    events: str = Field(description="file to append events to")
    error: str = Field(description="file for the first error, with its traceback")
    checkpoints: str | None = Field(
        None, description="train: folder of checkpoints, which outlives the attempt; without it none are made"
    )
    held_out: tuple[Digest, ...] = Field((), description="train: suites among the inputs; no row may hold their items")
    threads: int = Field(1, ge=1)
    processes: int | None = Field(
        None, ge=1, le=64, description="train: how many were started; fewer than the recipe's after a preemption"
    )
    closed: tuple[str, ...] = Field((), description="folders and secrets that it is kept out of, but for those above")
    confined: bool = Field(False, description="it fails where the kernel cannot keep it out of them")
