"""Attestations: append-only records about a digest, never part of what the digest covers."""

from enum import StrEnum
from typing import Any, Literal, NamedTuple, Self, TypedDict

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from loradeck.schemas.ids import YEAR_10000_MS, Digest, Line, Name, Strict, Whole, Wire, added
from loradeck.schemas.suite import ItemKind


class AttestationKind(StrEnum):
    """What an attestation states, and the model of its `body`."""

    EVALUATION = "evaluation"  # EvaluationReport in `body`
    ARM = "arm"  # of a release: as an evaluation, of the items as an arm of a worksheet asks them; no gate counts it
    REPLAY = "replay"  # of a release on a route: days that were counted elsewhere or replayed; Replay in `body`
    DECISION = "decision"  # of a worksheet's digest: Worksheet in `body`
    HARNESS = "harness"  # of a release: what another harness measured, as a person says; HarnessReport in `body`
    LEAK = "leak"  # of a release: rows of its datasets that it reproduces; LeakReport in `body`
    JUDGED = "judged"  # of a release: what a judge said of its answers to a suite; JudgeReport in `body`
    GATE = "gate"  # GateResult in `body`
    COMPARISON = "comparison"  # of a candidate on a route: an A/B that is over; ComparisonResult in `body`
    REVIEW = "review"  # of a release on a route: a person's verdicts on sampled answers; Review in `body`
    MERGE = "merge"  # MergeReport in `body`
    CANARY = "canary"  # CanaryRecord in `body`
    SIGNATURE = "signature"  # of an adapter or weights; Signature in `body`, verified on receipt
    REVOCATION = "revocation"  # of a release; `body.reason`
    ATTESTED = "attested"  # a pointer's generation was proven or listed on n of m; `body` {generation, n, m, level}
    SOAKED = "soaked"  # served long enough on this pointer; `body` {seconds, requests}
    BREACHED = "breached"  # as a FLAG of which the release is the cause, by hubs before there were flags
    FLAG = "flag"  # of a release on a route: its answers are bad, or no longer; flag.FlagRecord in `body`
    DEPRECATION = "deprecation"  # of an adapter or a tenant's weights; Deprecation in `body`, the newest counts
    LEDGER = "ledger"  # of a dataset: the hub's counts of its rows; LedgerEntry in `body`
    SCAN = "scan"  # of a dataset or suite: personal data and secrets in its rows; ScanReport in `body`
    AGREEMENT = "agreement"  # of a dataset: the judgements that it was made of; PreferenceReport in `body`
    ADJUDICATION = "adjudication"  # of the digest of an item's row: what a person decided; Adjudication in `body`
    LINEAGE = "lineage"  # of a base: the hub's record of what a job made it from; BaseLineage in `body`
    GENERATION = "generation"  # of a dataset that a job wrote: GenerationReport in `body`
    ERASURE = "erasure"  # of a dataset: rows that may not be used any more; Erasure in `body`
    ASSESSMENT = "assessment"  # of a tenant's sources: a person signed; dataset_ledger.Assessment in `body`
    ACKNOWLEDGED = "acknowledged"  # of a release on a route: somebody has read its card; Acknowledgement in `body`
    OPT_OUT = "opt_out"  # of a tenant: people whose rows do not come in; dataset_ledger.OptOut in `body`
    SHARED = "shared"  # of a tenant's base: other tenants may use it too; `body.reason`
    WITHDRAWN = "withdrawn"  # of a tenant: answers of which feedback was erased; feedback.Withdrawn in `body`
    ERASED_ELSEWHERE = "erased_elsewhere"  # of a dataset: rows that another tenant had erased; Erasure in `body`


class Attestation(Wire):
    """A statement about a release, base, adapter, suite or dataset, which the hub stores for ever.

    The hub makes most of them itself; over its API it accepts canaries from agents, and evaluations, results of
    harnesses, merges, signatures, revocations, deprecations and adjudications from releasers. It sets `seq`, `by` and
    `at_ms` (hub time, milliseconds since 1970 UTC).
    """

    seq: int = 0
    kind: AttestationKind
    subject: Digest = Field(description="release id, or digest of the base, adapter, suite or dataset it speaks of")
    tenant: Name
    route: Name | None = Field(None, description="set for what was seen on one pointer")
    body: dict[str, Any]
    by: str
    at_ms: int = 0

    @classmethod
    def of(cls, kind: AttestationKind, subject: str, tenant: str, body: BaseModel, route: str | None = None) -> Self:
        """A statement that a caller sends to the hub, which sets who says it."""
        stated = body.model_dump(mode="json")
        return cls(kind=kind, subject=subject, tenant=tenant, route=route, body=stated, by="")

    @property
    def is_from_a_job(self) -> bool:
        """Whether a job's result was attested. No person's name has a space."""
        return self.by.startswith("job ")


class Look(NamedTuple):
    """An attestation without its body: a release was evaluated on a suite, or a gate judged it. `seq`: its number."""

    release: Digest
    seq: int
    at_ms: int


class AttestationFilter(TypedDict, total=False):
    """Which attestations are asked for; a part that is absent or None fits every one."""

    kind: AttestationKind | None
    subject: str | None
    tenant: str | None
    route: str | None


class Signature(Strict):
    """An OpenSSF model-signing signature of an artifact's files, with the public key that verifies it."""

    subject: Digest = Field(description="digest of the artifact")
    public_key: str = Field(max_length=4000, description="PEM")
    bundle: str = Field(max_length=1_000_000, description="sigstore bundle, JSON as text")


class Deprecation(Strict):
    """The time from which an adapter version or weights are not promoted any more. Pointers that serve them go on, and
    tell their callers.
    """

    from_ms: int = Field(ge=0, lt=2**53, description="milliseconds since 1970 UTC")
    reason: str = Field(min_length=1, max_length=500)
    until_ms: int | None = added(
        None,
        "until when callers can count on answers, milliseconds since 1970 UTC; None: it is not said",
        lt=YEAR_10000_MS,
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.until_ms is not None and self.until_ms < self.from_ms:
            raise ValueError("until_ms is before from_ms")
        return self


class Acknowledgement(Strict):
    """A stakeholder's word: they have read how a release's card, with its data, differs from the live release's."""

    against: Digest | None = Field(description="the release that was live; None: none was")
    differences: Digest = Field(description="digest of the differences that were shown, or of the whole card")
    person: str = Field("", max_length=300, description="set by the hub: who that is where people sign in")
    card: Digest | None = added(None, "set by the hub: of what stood in both cards; None: from before it was kept")


class CanaryItem(Strict):
    """Greedy tokens of one fixed prompt. `margins[i]`: top-1 minus top-2 log-probability at position i, in nats."""

    prompt: Digest = Field(description="digest of the messages")
    tokens: tuple[Whole, ...] = Field(max_length=4096)
    margins: tuple[FiniteFloat, ...] = Field(max_length=4096)


class EngineBuild(Strict):
    """The engine build that a canary record is valid for: another build may rightly answer with other tokens."""

    engine: Line = Field(description="'embedded' or 'vllm', with the versions that decide tokens")
    device: Line
    dtype: Line
    tensor_parallel: Whole = 1

    @property
    def key(self) -> str:
        """The build as one string, under which the hub stores and finds canary records."""
        return f"{self.engine}|{self.device}|{self.dtype}|tp{self.tensor_parallel}"


class CanaryRecord(Strict):
    """A release's answers to fixed prompts on one engine build: its fingerprint, which agents compare answers with.

    An evaluate job or an agent records it on an idle engine; the hub stores it as an attestation. A releaser's record
    has a reason and counts above those of nodes.
    """

    release: Digest
    build: EngineBuild
    items: tuple[CanaryItem, ...]
    withdraws: tuple[int, ...] = added((), "`seq` of records that count no more", max_length=1000)
    reason: str = added("", max_length=500)


class ItemResult(Strict):
    """A release's answer to one item of a suite, and its score."""

    id: str
    answer: str
    exact: bool = Field(description="as its kind requires: equal text, the expected call, a refusal, ...")
    valid: bool = Field(description="well-formed: parses and satisfies the schema, calls a known tool, ...")
    kind: ItemKind = ItemKind.EXACT
    ms: float | None = Field(None, ge=0, description="time of the batch that answered it; None in older reports")
    why: str = Field("", max_length=300, description="why it is not exact, in words")
    acc_norm: bool | None = added(
        None,
        "choice: whether the likeliest choice by its length is right, lm-eval's acc_norm; `exact` is its "
        "acc. None in reports of before, whose `exact` was by the mean over tokens",
    )
    margin: FiniteFloat | None = added(
        None,
        "nats between the two likeliest tokens, where they were nearest; of a choice, between the two likeliest. "
        "None: the engine that served was not asked for it",
        ge=0,
    )
    cited: bool | None = added(None, "of an arm: whether it cites the text with the truth, and none that was not shown")
    tokens: tuple[int, int] | None = added(None, "of prompt and answer; None: nothing was written, or uncounted")


class ServedSpeed(Strict):
    """How fast an engine answered the items of a suite, so many of them at once: what a price a token is made from."""

    tokens: int = Field(ge=1, description="of all answers")
    seconds: FiniteFloat = Field(gt=0, description="from the first question to the last answer")
    at_once: int = Field(ge=1, description="questions that were with the engine at a time")


class EvaluationReport(Strict):
    """Scores of one release on one suite, item by item, so that two releases can be compared in pairs."""

    release: Digest
    suite: Digest
    n: int
    exact: int = Field(description="items answered exactly")
    valid: int = Field(description="items whose answer satisfies the schema")
    items: tuple[ItemResult, ...]
    seconds: float
    engine: EngineBuild | None = added(
        None, "the engine build that answered; None: transformers, in process and in fp32"
    )
    offline: int = added(
        0, "items that were answered in process though an engine answered the others: it scores no choices", ge=0
    )
    harness: str = added("", "that asked and scored, with its version and that of its task", max_length=300)
    speed: ServedSpeed | None = added(
        None, "of an engine that wrote every answer; None where choices are among the items, which are only read"
    )


class MergeProbe(Strict):
    """How far merged weights diverge from base + adapter, over the tokens with which base + adapter answers.

    Divergences are Kullback-Leibler, from the distribution under base + adapter to the other one, in nats a token.
    """

    prompts: int = Field(ge=1)
    positions: int = Field(ge=1, description="tokens that were compared")
    kl: float = Field(ge=0, description="to the merged weights, mean")
    kl_worst: float = Field(ge=0, description="to the merged weights, the largest")
    kl_base: float = Field(ge=0, description="to the base alone, mean: how much the adapter changes at all")
    agree: int = Field(ge=0, description="positions where both give the same most likely token")


class MergeReport(Strict):
    """The parts and the result of a merge, and how far the merged weights diverge."""

    release: Digest = Field(description="the merged release")
    adapter: Digest = Field(description="the adapter's release that was merged")
    merged: Digest = Field(description="base digest of the merged weights")
    tensors: int = Field(ge=1, description="weights that the adapter changes")
    dequantized: str = added("", "how the base's weights are quantized; the merged ones are not", max_length=40)
    probe: MergeProbe
    seconds: float = Field(description="duration of the merge itself, without the probe")


class BaseLineage(Strict):
    """What a job made a base from. The base is the tenant's own: no other tenant serves it or trains on it."""

    tenant: Name
    job: str
    base: Digest = Field(description="base that was trained on, or merged into")
    datasets: tuple[Digest, ...] = Field((), description="whose rows all of its weights were trained on")
    adapter: Digest | None = Field(None, description="adapter version that was merged in")


_ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


class CheckResult(Strict):
    """One check of a gate. `low`/`high` is a 95 % interval of `value`."""

    name: str
    passed: bool
    value: float
    threshold: float
    n: int
    low: float
    high: float
    note: str = ""
    suite: Digest | None = Field(None, description="suite it was measured on")
    unit: Literal["share", "ms", "people", "stage"] = Field(
        "share", description="of value, threshold and interval; a share is 0 to 1, a stage 1 where it was passed"
    )
    too_small: bool = Field(False, description="n is under `needed`: the check is undecided, and so not passed")
    needed: int | None = Field(None, description="number of items from which the threshold can be decided")
    lost: int | None = Field(None, description="drop: items the live release had right and this one has wrong")
    won: int | None = Field(None, description="drop: the reverse")
    p: float | None = Field(None, description="drop: McNemar's exact one-sided p, for a drop of nothing")
    visible: float | None = Field(None, description="drop: the smallest one that n items see with 80 % power")
    bound: float | None = added(
        None, "drop: its upper one-sided bound, which decides; at 95 % where no `level` is given"
    )
    tried: int | None = added(
        None, "drop: which try on the suite this is since the live release went live; None: the first"
    )
    level: float | None = added(None, "drop: the bound's one-sided level, where further tries pay for the choice")
    effective: int | None = added(None, "items that count, near copies of each other as one; None: all n do")

    @property
    def at_most(self) -> bool:
        """Whether the threshold is the largest value that passes, rather than the smallest."""
        return self.name in ("p95", "imported", "compare", "leak") or self.name.startswith(("drop", "slices"))

    def in_unit(self, value: float) -> str:
        """Formats a value of this check for people: '97.1%', '840 ms', '2'."""
        return f"{value:.1%}" if self.unit == "share" else f"{value:.0f} ms" if self.unit == "ms" else f"{value:g}"

    @property
    def measured(self) -> str:
        """The value with its interval and n, '97.1% (95.0% to 98.4%, n = 400)'; people and stages are counted."""
        effective = f", effectively {self.effective:,}" if self.effective is not None else ""
        span = f" ({self.in_unit(self.low)} to {self.in_unit(self.high)}, n = {self.n:,}{effective})"
        return self.in_unit(self.value) + ("" if self.unit in ("people", "stage") else span)

    @property
    def asked(self) -> str:
        """Says which values pass the check: 'at least 95.0%'."""
        if self.bound is not None:
            return f"surely at most {self.in_unit(self.bound)}, under {self.in_unit(self.threshold)} wanted"
        return f"{'at most' if self.at_most else 'at least'} {self.in_unit(self.threshold)}"

    @property
    def tries(self) -> str:
        """Says which try on the suite this was, and how it was judged: 'third try on this suite; judged at 0.17 %'."""
        if self.tried is None:
            return ""
        place = f"{_ORDINALS[self.tried]} try" if self.tried < len(_ORDINALS) else f"try {self.tried}"
        judged = f"; judged at {100 * self.level:.2g} %" if self.level is not None else ""
        return f"{place} on this suite{judged}"


class GateResult(Strict):
    """The outcome of a route's gate for one candidate; the hub judges it and stores it as an attestation."""

    release: Digest
    against: Digest | None = Field(description="the live release it was compared with")
    anchor: Digest | None = added(None, "the fixed release it was compared with, too")
    looks: int | None = added(
        None,
        "different releases that were evaluated on the gate's own suite by then: the more, the likelier "
        "one of them looks good by chance",
    )
    suite: Digest = Field(description="the gate's own suite; a check on another suite names it")
    passed: bool
    checks: tuple[CheckResult, ...]
    gate: Digest | None = Field(None, description="digest of the gate's settings under which it was judged")


LEAKS_NAMED = 20
"""Rows that a report on leaks names; the others are counted."""


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
    rows: tuple[Digest, ...] = Field(
        (), max_length=LEAKS_NAMED, description="of those that only the release reproduces"
    )
    measure: Line
    engine: EngineBuild | None = Field(None, description="that answered; None: transformers, in process")
    seconds: FiniteFloat
