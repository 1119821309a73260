"""Jobs: work that nodes do for the hub, and their recipes. What an executor is given and says is in `executor`."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.ids import Digest, Label, Line, Name, Reason, Strict, Whole, Wire, added
from loradeck.schemas.judge import SuiteJudge
from loradeck.schemas.manifest import DecisionRecord, FileEntry, Provenance
from loradeck.schemas.suite import Arm
from loradeck.schemas.table import ReleaseRef
from loradeck.schemas.training import (
    PAIRS,
    AnswerForm,
    Distillation,
    DistilWay,
    Guards,
    Method,
    Mixing,
    Precision,
    QualityWeights,
    Safety,
    Sampling,
    Structure,
    Thoughts,
    Turns,
    Validation,
    Weights,
)

CRASHES = frozenset({"killed", "executor_failed", "executor_lost", "no_terminal_event"})
"""Codes of executors that ended without a report, or by an unexpected error."""

MOVED_ON = frozenset({"preempted", "node_lost", "job_lost"})
"""Codes of attempts that were taken from their node. After these and a crash the job is repeated, from its last
checkpoint if it made one.
"""


class JobState(StrEnum):
    """Where a job stands, from submission to its end."""

    QUEUED = "queued"
    ASSIGNED = "assigned"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OVER = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
"""States that a job does not leave by itself; a failed or cancelled one may be resumed."""


RECIPES = 1
"""The level of specs and reports that this version reads; an agent says it in its hello, a hub in its welcome.

0 is the level of version 1 of the wire, whose programs say none.
"""

LATER = frozenset(
    {
        "turns",
        "safety",
        "precision",
        "gradient_checkpointing",
        "packing",
        "sampling",
        "distillation",
        "thoughts",
        "sharded",
        "rslora",
        "decision.worksheet",
        "validation.suite",
        "safety.toxic",
        "safety.rise",
        "distillation.top",
        "quality",
        "rank_pattern",
        "alpha_pattern",
        "decision.limitations",
    }
)
"""Fields of a recipe, or of a part of it, that version 1 of the wire does not have."""


def rows_level(said: Provenance) -> int:
    """The least `Hello.recipes` of an agent that can read what rows say of themselves: their quality, their biases."""
    return RECIPES if (said.quality or said.known_biases) is not None else 0


Ending = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$", max_length=200)]
"""The end of a module's name after a dot, or all of it: q_proj, 0.self_attn.q_proj."""


class TrainSpec(Strict):
    """A training recipe. The loss covers answers only; a step is `batch` rows, however they are split."""

    kind: Literal["train"] = "train"
    tenant: Name
    name: Name
    base: Digest
    datasets: tuple[Digest, ...] = Field(min_length=1)
    decision: DecisionRecord
    parent: Digest | None = None
    method: Method = Method.SUPERVISED
    weights: Weights = Weights.LORA
    steps: int = Field(40, ge=1)
    batch: int = Field(4, ge=1, description="rows of a step, over all processes")
    accumulation: int = Field(1, ge=1, description="pieces into which a process splits its rows of a step")
    processes: int = Field(1, ge=1, le=64, description="more than one runs under torchrun")
    learning_rate: float = Field(1e-3, gt=0)
    rank: int = Field(8, ge=1, le=512)
    alpha: int = Field(16, ge=1)
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    dropout: float = Field(0.0, ge=0, lt=1)
    seed: int = 0
    max_tokens: int = Field(256, ge=8, description="longest row, prompt and answer, in tokens; longer rows are refused")
    beta: float = Field(0.1, gt=0, description="preferences: how strongly the model is held to the reference")
    kl: float = Field(0.0, ge=0, description="weight of KL(base || model) per token, on the general rows if any")
    mixing: Mixing | None = None
    quality: QualityWeights | None = added(None, "None: rows of every quality are drawn alike")
    structure: Structure | None = None
    validation: Validation | None = None
    guards: Guards = Guards()
    turns: Turns = added(Turns.LAST)
    thoughts: Thoughts | None = added(
        None, "None: a row with a thought is refused where the template writes it otherwise than the row"
    )
    safety: Safety | None = added(None)
    sampling: Sampling | None = added(None, "for grpo")
    distillation: Distillation | None = added(None, "for distil")
    precision: Precision = added(Precision.FP32, "of the base in memory")
    gradient_checkpointing: bool = added(False, "compute activations again in the backward pass")
    sharded: bool = added(False, "the base in parts, one in each process (FSDP2)")
    packing: bool = added(False, "the rows of a piece in one sequence, without padding")
    rslora: bool = added(False, "the adapter's product counts alpha / sqrt(rank) times, not alpha / rank")
    rank_pattern: dict[Ending, Annotated[int, Field(ge=1, le=512)]] = added(
        dict, "ranks of target modules by the end of their names, the first that fits; of others: rank", max_length=64
    )
    alpha_pattern: dict[Ending, Annotated[int, Field(ge=1)]] = added(dict, "likewise their alphas", max_length=64)
    chat_template: Digest | None = Field(
        None, description="SHA-256 of the chat template the rows were written for; another one is refused"
    )
    checkpoint_every: int = Field(20, ge=1, description="steps")
    keep: int = Field(2, ge=1, description="checkpoints kept, the newest")

    @property
    def reads(self) -> tuple[Digest, ...]:
        """The datasets whose rows the job's node reads: those that are trained on, and the prompts of `safety`."""
        return self.datasets + ((self.safety.dataset,) if self.safety is not None else ())

    @property
    def largest_rank(self) -> int:
        """The largest rank of a module, for which engines lay out all of them."""
        return max((self.rank, *self.rank_pattern.values()))

    @property
    def pieces(self) -> int:
        """Into how many pieces the rows of a step are split, over all processes."""
        return self.accumulation * self.processes

    @property
    def asks_teacher(self) -> bool:
        """Whether an engine is asked what the teacher finds likely."""
        return self.distillation is not None and self.distillation.way is DistilWay.TOP

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSpec:
        preferences, kto = self.method in PAIRS, self.method is Method.KTO
        plain = self.method is Method.SUPERVISED
        wrong = {
            "batch must be a multiple of accumulation x processes": self.batch % self.pieces,
            "mixing.dataset must be one of datasets": self.mixing and self.mixing.dataset not in self.datasets,
            "mixing needs a dataset of the task beside the general one": self.mixing and len(set(self.datasets)) < 2,
            "kl needs lora: the base is the model with its adapter disabled": self.kl and self.weights is Weights.FULL,
            "full needs fp32: a small step is lost in the eight bits of bf16": self.weights is Weights.FULL
            and self.precision is not Precision.FP32,
            "rank_pattern and alpha_pattern need lora, and name ends of target_modules' names": (
                bool(named := self.rank_pattern.keys() | self.alpha_pattern.keys())
                and (
                    self.weights is Weights.FULL
                    or any(key.rpartition(".")[2] not in self.target_modules for key in named)
                )
            ),
            "full has no parent adapter": self.parent and self.weights is Weights.FULL,
            "preferences need lora, one process and no dropout": preferences
            and (self.weights is Weights.FULL or self.processes > 1 or self.dropout),
            "preferences have no kl, mixing or structure": preferences and (self.kl or self.mixing or self.structure),
            "masked thoughts are not for preferences: either answer has one of its own": preferences
            and self.thoughts is Thoughts.MASK,
            "sharded is for supervised and lora, and for more than one process": self.sharded
            and (not plain or self.weights is Weights.FULL or self.processes < 2),
            "sharded has no nf4: its four bits and their scales lie apart, and a part of one without the other is no "
            "weight. Use bf16, or nf4 whole on each GPU": self.sharded and self.precision is Precision.NF4,
            "sharded has no kl with mixing: a process without general rows would keep the others waiting": self.sharded
            and self.kl
            and self.mixing,
            "turns and packing are for supervised": not plain and (self.turns is Turns.ALL or self.packing),
            "kto, grpo and distil need lora: the base is the model with its adapter disabled": not (
                plain or preferences
            )
            and self.weights is Weights.FULL,
            "kto needs one process and has no parent, kl, mixing or structure": kto
            and (self.processes > 1 or self.parent or self.kl or self.mixing or self.structure),
            "kto needs at least two rows in a batch: the drift is that of each prompt with another's answer": kto
            and self.batch < 2,
            "grpo has no mixing or dropout": self.method is Method.GRPO and (self.mixing or self.dropout),
            "distil has no kl or mixing": self.method is Method.DISTIL and (self.kl or self.mixing),
            "sampling is for grpo, which needs it": (self.sampling is not None) is not (self.method is Method.GRPO),
            "distillation is for distil, which needs it": (self.distillation is not None)
            is not (self.method is Method.DISTIL),
            'the way "top" needs one process, and temperature 1: its engine says what it finds likely as it is': (
                self.distillation is not None
                and self.asks_teacher
                and (self.processes > 1 or self.distillation.temperature != 1)
            ),
            "safety is looked at with validation, which is missing": self.safety and self.validation is None,
            "safety.dataset must not be one of datasets: it is asked, and never trained on": self.safety
            and self.safety.dataset in self.datasets,
            "answer_schema is for json": self.structure
            and self.structure.answer_schema
            and self.structure.form is not AnswerForm.JSON,
        }
        found = [rule for rule, broken in wrong.items() if broken]
        if found:
            raise ValueError("; ".join(found))
        return self


AT_ONCE = 64
"""Most questions that are with an engine at once, whatever an evaluation asks for: callers use it, too."""


class EvaluateSpec(Strict):
    """A job that scores a release on a suite's held-out items and records its canaries."""

    kind: Literal["evaluate"] = "evaluate"
    tenant: Name
    release: Digest
    suite: Digest
    route: Name = "production"
    max_new_tokens: int = Field(48, ge=1, le=1024)
    batch: int = Field(8, ge=1)
    offline: bool = added(False, "in process by transformers, instead of by an engine that serves the release's base")
    arm: Arm | None = added(None, "how items are put to it for a worksheet: no gate counts the report")


class LeakSpec(Strict):
    """A job that begins rows of a release's datasets and counts those that it reproduces, and its base alone does."""

    kind: Literal["leak"] = "leak"
    tenant: Name
    release: Digest
    datasets: tuple[Digest, ...] = Field(
        min_length=1, max_length=100, description="all that the adapter was trained on"
    )
    rows: int = Field(400, ge=1, le=10_000, description="most rows that are begun")
    batch: int = Field(8, ge=1, le=1024)
    offline: bool = Field(False, description="as of an evaluation")


class JudgeSpec(Strict):
    """A job that has a judge look at a release's answers to a suite, alone and beside another release's."""

    kind: Literal["judge"] = "judge"
    tenant: Name
    release: Digest
    against: Digest | None = Field(None, description="release whose answers are shown beside; None: none")
    judge: SuiteJudge
    batch: int = Field(8, ge=1, le=1024, description="questions that are with an engine at once")

    @property
    def asked(self) -> tuple[Digest, ...]:
        """The releases that engines are asked for, the candidate first."""
        named = (self.release, self.against, self.judge.release)
        return tuple(dict.fromkeys(one for one in named if one is not None))


class MergeSpec(Strict):
    """A job that merges an adapter's release into its base, in fp32 with one cast, and registers the result as a
    release.

    The merged weights are first compared with base + adapter, on fixed prompts and on the canaries of `route`.
    """

    kind: Literal["merge"] = "merge"
    tenant: Name
    release: Digest = Field(description="the adapter's release")
    route: Name = "production"


FLEET: Literal["fleet"] = "fleet"
"""The tenant that jobs name which are about a node: whoever may see and submit them sees all tenants.

No tenant gets this name.
"""


class ProveSpec(Strict):
    """A job that shows whether training on one node is right, by some steps of a small recipe; see `TrainingProof`."""

    kind: Literal["prove"] = "prove"
    tenant: Literal["fleet"] = FLEET
    node: Name
    base: Digest = Field(description="of an engine of the node")
    steps: int = Field(20, ge=4, le=1000)


class PrepareSpec(Strict):
    """A job before a promote commits: fetch, verify, load and canary on every reachable placed replica of a node."""

    kind: Literal["prepare"] = "prepare"
    tenant: Name
    route: Name
    release: Digest
    expected_generation: int


JobSpec = Annotated[
    TrainSpec | EvaluateSpec | LeakSpec | JudgeSpec | MergeSpec | ProveSpec | GenerateSpec | PrepareSpec,
    Field(discriminator="kind"),
]
"""The work of a job, by its `kind`."""


def level_of(spec: JobSpec) -> int:
    """The least `Hello.recipes` of an agent that can read a spec: 0 where version 1 of the wire has all of it."""
    match spec:
        case TrainSpec():
            said = spec.model_dump()
            parts = {f"{name}.{part}" for name, of in said.items() if isinstance(of, dict) for part in of}
            return 0 if LATER.isdisjoint(said.keys() | parts) and spec.method is not Method.KTO else RECIPES
        case EvaluateSpec():
            return RECIPES if spec.arm is not None or spec.offline else 0
        case MergeSpec() | PrepareSpec():
            return 0
        case _:
            return RECIPES


class JobRequest(Strict):
    """A job as it is submitted to the hub."""

    spec: JobSpec
    labels: dict[str, str] = Field(default_factory=dict, description="labels the node must carry")
    priority: int = Field(0, ge=-100, le=100, description="higher goes first, then the older")
    memory_gb: float | None = Field(
        None, gt=0, description="GB that must be free on each of its GPUs, else on the host"
    )
    idempotency_key: str | None = None
    override: Reason = added("", "train, generate: why it is queued although training is frozen")


MEASUREMENTS = 256
"""Most measurements of an event, and of a job."""

Metrics = Annotated[
    dict[Label, float],
    Field(max_length=MEASUREMENTS),
    AfterValidator(lambda read: {name: value for name, value in read.items() if math.isfinite(value)}),
]
"""Measurements by name. Those that are no finite number are left out: JSON has none, and no console can plot one."""


class JobLogLine(Wire):
    """A line of an executor. `number` counts the lines of its attempt from 1: lines skipped were not sent."""

    attempt: int
    number: int
    text: str


class Scheduled(Wire):
    """What the scheduler that runs a job says of it, by the scheduler's own id."""

    system: Line = Field(description="slurm")
    id: Line = Field("", description="'': it is not known yet whether the scheduler has taken the job")
    state: Line = Field(
        description="the scheduler's word, in small letters; unknown: it does not answer; gone; '': over"
    )
    reason: Line = Field("", description="why it waits or ended, or why nothing is known")

    @property
    def words(self) -> str:
        """The entry in one line: slurm 4711 pending: Resources."""
        reason = f": {self.reason}" if self.reason else ""
        return " ".join(part for part in (self.system, self.id, self.state) if part) + reason


class CheckpointRef(Wire):
    """A checkpoint whose files the hub holds, so that another node can resume from it."""

    step: int = Field(ge=1)
    files: tuple[FileEntry, ...] = Field(min_length=1)


class JobAssignment(Wire):
    """A job as the hub gives it to a node. `lease` fences: events under an older one are refused."""

    id: str
    lease: int
    attempt: int
    spec: JobSpec
    release: ReleaseRef | None = Field(None, description="for prepare, evaluate, leak and merge")
    canaries: tuple[tuple[dict[str, str], ...], ...] = Field((), description="canaries of the job's route")
    asked: tuple[ReleaseRef, ...] = added((), "generate, judge: the releases that engines are asked for")
    held_out: tuple[Digest, ...] = Field((), description="train and generate: the tenant's suites")
    checkpoint: CheckpointRef | None = Field(None, description="train: the newest of an earlier attempt")
    swap: bool = Field(
        False, description="prepare: if memory does not hold both engines, the live release's engine is stopped for it"
    )


class Looked(Wire):
    """What a training job measured of its base and of the checkpoint that it published; the best of `compared`.

    Shares are 0 to 1. How many items or rows a figure is of stands under its name with `_n`, in `base` for all, and the
    standard error of a mean over rows under its name with `_se`.
    """

    base: Metrics = Field(default_factory=dict)
    chosen: Metrics = Field(default_factory=dict)
    chosen_step: Whole = 0
    compared: Whole = 0


class Job(Wire):
    """A job as the hub stores it and sends it to consoles. Times are hub time, milliseconds since 1970 UTC."""

    id: str
    kind: str
    tenant: Name
    spec: JobSpec
    labels: dict[str, str] = Field(default_factory=dict)
    priority: int = 0
    memory_gb: float | None = None
    state: JobState
    node: Name | None = None
    lease: int = 0
    attempt: int = 0
    created_ms: int
    started_ms: int | None = Field(None, description="when the attempt that runs, or the last one, began")
    ended_ms: int | None = None
    earlier_ms: int = added(0, "milliseconds that earlier attempts ran")
    counted_from: int = added(0, "attempts that do not count among the three, such as those before it was resumed")
    began: int = added(0, "step of the checkpoint with which its newest attempt began")
    by: str
    override: str = added("", "why it was queued although training was frozen")
    passes: tuple[Digest, ...] = added((), "the training freezes of then, which do not hold it; others do")
    step: int | None = None
    of: int | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    message: str = ""
    code: str | None = None
    log: str = Field("", description="of a failed job: the last lines that its executor printed")
    checkpoint: CheckpointRef | None = Field(None, description="train: the newest checkpoint that the hub holds")
    scheduled: Scheduled | None = added(None, "of the newest attempt that a scheduler runs")
    result: dict[str, Any] | None = None

    def ran_ms(self, now_ms: int | None) -> int:
        """Milliseconds that its attempts ran until it ended, or until now; what it waited between them is left out."""
        until_ms = self.ended_ms or now_ms
        return self.earlier_ms + (until_ms - self.started_ms if until_ms and self.started_ms is not None else 0)

    @property
    def says(self) -> str:
        """Its message; of one without, what its scheduler says while it is not over."""
        waits = self.scheduled is not None and self.state not in OVER
        return self.message or (self.scheduled.words if self.scheduled is not None and waits else "")

    @property
    def gpu_hours(self) -> float | None:
        """Hours that a training job ran, times its processes; None: it trains nothing, or has not ended."""
        if not isinstance(self.spec, TrainSpec) or self.ended_ms is None or not (ran_ms := self.ran_ms(None)):
            return None
        return ran_ms / 3_600_000 * self.spec.processes


LISTED = 200
"""Jobs in one answer unless the query sets a limit."""


class JobQuery(Strict):
    """A filter for jobs, listed newest first; all given conditions must hold."""

    tenant: Name | None = None
    state: JobState | None = None
    kind: str | None = Field(None, description="train, evaluate, leak, merge, prove, generate or prepare")
    match: str | None = Field(
        None, max_length=200, description="text in recipe, reason, code, log, figures or result, case-insensitive"
    )
    before: str | None = Field(None, description="id of a job: only jobs submitted before it")
    limit: int = Field(LISTED, ge=1, le=500)

    def takes(self, job: Job) -> bool:
        """Tells whether a job matches the filter; `before` and `limit` are not considered."""
        return (
            self.tenant in (None, job.tenant)
            and self.state in (None, job.state)
            and self.kind in (None, job.kind)
            and (self.match is None or self.match.casefold() in job.model_dump_json().casefold())
        )
