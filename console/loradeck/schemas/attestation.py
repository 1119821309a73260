"""Attestations: append-only records that name a digest and are never part of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from loradeck.schemas.ids import Digest, Name, Strict, Wire
from loradeck.schemas.suite import ItemKind


class AttestationKind(StrEnum):
    EVALUATION = "evaluation"  # EvaluationReport in `body`
    GATE = "gate"  # GateResult in `body`
    REVIEW = "review"  # of a release on a route: what a person found in sampled answers; Review in `body`
    MERGE = "merge"  # MergeReport in `body`
    CANARY = "canary"  # CanaryRecord in `body`
    SIGNATURE = "signature"  # of an adapter or merged weights; Signature in `body`, verified when it came in
    REVOCATION = "revocation"  # of a release; `body.reason`
    ATTESTED = "attested"  # a pointer's generation was proven on n of m; `body` {generation, n, m, level}
    SOAKED = "soaked"  # served long enough on this pointer; `body` {seconds, requests}
    BREACHED = "breached"  # bad answers or errors passed the route's limit; `body` {what, share, n}
    DEPRECATION = "deprecation"  # of an adapter; Deprecation in `body`, the newest counts
    LEDGER = "ledger"  # of a dataset: what the hub read of its rows; LedgerEntry in `body`
    SCAN = "scan"  # of a dataset or suite: what was looked for in its rows; ScanReport in `body`
    ERASURE = "erasure"  # of a dataset: rows that may not be used any more; Erasure in `body`


class Attestation(Wire):
    seq: int = 0
    kind: AttestationKind
    subject: Digest = Field(description="release id, or digest of the adapter, suite or dataset it speaks of")
    tenant: Name
    route: Name | None = Field(None, description="set for what was seen on one pointer")
    body: dict[str, Any]
    by: str
    at_ms: int = 0


class Signature(Strict):
    """What OpenSSF model-signing says of an artifact's files, and the key it says it with."""

    subject: Digest = Field(description="of the artifact")
    public_key: str = Field(max_length=4000, description="PEM")
    bundle: str = Field(max_length=1_000_000, description="sigstore bundle, JSON as text")


class Deprecation(Strict):
    """From when on an adapter version is not promoted any more. What serves it goes on."""

    from_ms: int = Field(ge=0, description="milliseconds since 1970 UTC")
    reason: str = Field(min_length=1, max_length=500)


class CanaryItem(Strict):
    """Greedy tokens of one fixed prompt. `margins[i]`: top-1 minus top-2 log-probability at position i, nats."""

    prompt: Digest = Field(description="digest of the messages")
    tokens: tuple[int, ...]
    margins: tuple[float, ...]


class EngineBuild(Strict):
    """What a fingerprint is valid for: another build may answer with other tokens and be right."""

    engine: str = Field(description="'embedded' or 'vllm', with the versions that decide tokens")
    device: str
    dtype: str
    tensor_parallel: int = 1

    @property
    def key(self) -> str:
        return f"{self.engine}|{self.device}|{self.dtype}|tp{self.tensor_parallel}"


class CanaryRecord(Strict):
    release: Digest
    build: EngineBuild
    items: tuple[CanaryItem, ...]


class ItemResult(Strict):
    id: str
    answer: str
    exact: bool = Field(description="as its kind asks: the same text, the expected call, refused, ...")
    valid: bool = Field(description="well-formed: parses and satisfies the schema, calls a known tool, ...")
    kind: ItemKind = ItemKind.EXACT
    ms: float | None = Field(None, ge=0, description="time of the batch that answered it; None in older reports")
    why: str = Field("", max_length=300, description="why it is not as asked, in words")


class EvaluationReport(Strict):
    """Scores of one release on one suite, item by item, so that two releases can be paired."""

    release: Digest
    suite: Digest
    n: int
    exact: int = Field(description="items answered exactly")
    valid: int = Field(description="items whose answer satisfies the schema")
    items: tuple[ItemResult, ...]
    seconds: float


class MergeProbe(Strict):
    """How near merged weights are to base + adapter, over the tokens that base + adapter answers with.

    Divergences are Kullback-Leibler, of the distribution under base + adapter to the other one, nats a token.
    """

    prompts: int = Field(ge=1)
    positions: int = Field(ge=1, description="tokens that were compared")
    kl: float = Field(ge=0, description="to the merged weights, mean")
    kl_worst: float = Field(ge=0, description="to the merged weights, the largest")
    kl_base: float = Field(ge=0, description="to the base alone, mean: how much the adapter says at all")
    agree: int = Field(ge=0, description="positions where both would say the same token")


class MergeReport(Strict):
    """What a merge made of which parts, and how near it came."""

    release: Digest = Field(description="the merged release")
    adapter: Digest = Field(description="the adapter's release that was merged")
    merged: Digest = Field(description="base digest of the merged weights")
    tensors: int = Field(ge=1, description="weights that the adapter changes")
    probe: MergeProbe
    seconds: float = Field(description="what the merge itself took, without the probe")


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
    too_small: bool = Field(False, description="n is under `needed`: it says nothing, and so it did not pass")
    needed: int | None = Field(None, description="items from which on the threshold can be told")
    lost: int | None = Field(None, description="drop: items the live release had right and this one has not")
    won: int | None = Field(None, description="drop: the reverse")
    p: float | None = Field(None, description="drop: McNemar's exact one-sided p, for a drop of nothing")
    visible: float | None = Field(None, description="drop: the smallest one that n items see with 80 % power")

    @property
    def at_most(self) -> bool:
        """Whether the threshold is the most that passes, and not the least."""
        return self.name in ("drop", "p95")

    def in_unit(self, value: float) -> str:
        """A figure of this check as people read it: '97.1%', '840 ms', '2'."""
        return f"{value:.1%}" if self.unit == "share" else f"{value:.0f} ms" if self.unit == "ms" else f"{value:g}"


class GateResult(Strict):
    release: Digest
    against: Digest | None = Field(description="the live release it was compared with")
    suite: Digest = Field(description="the gate's own suite; a check names another where it is on another")
    passed: bool
    checks: tuple[CheckResult, ...]
    gate: Digest | None = Field(None, description="digest of the gate's settings under which it was judged")
