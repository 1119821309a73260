"""Manifests of immutable artifacts: bases, adapter versions, datasets and suites; and releases, which consist of them.

A manifest is digested once and never changes; later facts about it are attestations. So every field that could not be
added afterwards (where rows came from, who rated them, why weights were chosen at all) is here from the first version.

Releases are the units that pointers name and engines serve.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from loradeck.schemas.ids import Digest, Line, Name, Strict, added, canonical_json, digest_of


class FileEntry(Strict):
    """One file of an artifact. `path` is relative, with forward slashes, and never leaves its folder."""

    path: str = Field(min_length=1, max_length=300)
    size: int = Field(ge=0, description="bytes")
    sha256: Digest

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = path.split("/")
        if path.startswith("/") or "\\" in path or "\0" in path or any(p in ("", ".", "..") for p in parts):
            raise ValueError(f"path {path!r} leaves the artifact's folder")
        return path


class BaseManifest(Strict):
    """A base model. Its files stay on the nodes; only the manifest travels, and nodes are matched by its digest.

    `files` holds weights, configuration, tokenizer and chat template: a changed template makes another base.
    """

    schema_version: Literal[1] = 1
    model_id: str = Field(min_length=1, max_length=200)
    revision: str = Field(min_length=1, max_length=100)
    files: tuple[FileEntry, ...] = Field(min_length=1)

    @property
    def listing(self) -> bytes:
        """The identity of the base: its files as canonical JSON, without the names of model and revision."""
        return canonical_json({"files": [f.model_dump() for f in sorted(self.files, key=lambda f: f.path)]})

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the listing: equal files under another name are one base."""
        return hashlib.sha256(self.listing).hexdigest()


class Origin(StrEnum):
    """Who wrote rows: people, programs and models, or both."""

    HUMAN = "human"
    SYNTHETIC = "synthetic"
    MIXED = "mixed"


class Tier(StrEnum):
    """How confidential rows are, from anybody to a named few."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"


class QualityTier(StrEnum):
    """How well rows were made, the best first."""

    GOLD = "gold"  # people labelled or wrote them for this
    CURATED = "curated"  # programs or models made them, and something checked them
    SCRAPED = "scraped"  # nobody looked at them


class Provenance(Strict):
    """Where training rows came from and what they may be used for; one per dataset, or per row if rows differ."""

    source: str | None = added(None, "system, export or address the rows came from", min_length=1, max_length=300)
    tier: Tier | None = added(None, "how confidential they are")
    quality: QualityTier | None = added(None, "how well they were made; recipes take rows that do not say as scraped")
    known_biases: str | None = added(None, "what they show too much or too little of", min_length=1, max_length=1000)
    origin: Origin
    generator_release: Digest | None = Field(
        None, description="release that wrote the synthetic rows, if it was one of ours"
    )
    synthetic_depth: int = Field(
        0,
        ge=0,
        description="0 no model wrote them (a person, or a program); 1 a model trained on such rows did; and so on. "
        "Synthetic rows state it",
    )
    verifier: str | None = Field(None, description="checker of the synthetic rows: a program, a judge, a person")
    rater_ids: tuple[str, ...] = Field((), description="pseudonymous ids of the people who labelled or ranked")
    consent: str = Field(description="basis on which the data may be used: contract, consent, public, own")
    licence_class: str = Field(description="SPDX id or a house class such as 'customer-owned'")
    retention_days: int | None = Field(None, ge=1, description="None keeps the rows until somebody asks for erasure")
    purpose: tuple[str, ...] = Field(min_length=1, description="allowed uses: train, evaluate, ...")

    @model_validator(mode="after")
    def _says_how_deep(self) -> Self:
        if self.origin is Origin.SYNTHETIC and "synthetic_depth" not in self.model_fields_set:
            raise ValueError(
                "synthetic rows say how deep: synthetic_depth 0 if a program wrote them and no model, 1 if a model, "
                "2 if one did that was trained on such rows"
            )
        return self


class DigestedManifest(Strict):
    """A manifest that its own digest identifies, and with it the artifact."""

    @property
    def digest(self) -> Digest:
        """SHA-256 (hex) of the manifest."""
        return digest_of(self)


class DatasetManifest(DigestedManifest):
    """Rows for training, as JSONL. A row may carry its own `provenance` object, which overrides this one."""

    schema_version: Literal[1] = 1
    tenant: Name
    name: Name
    rows: int = Field(ge=1)
    files: tuple[FileEntry, ...] = Field(min_length=1)
    provenance: Provenance


class SuiteUse(StrEnum):
    """What a suite is for: a release that was chosen by items looks better on them than it is."""

    GATE = "gate"  # to judge candidates
    SELECTION = "selection"  # to choose among checkpoints, recipes and prompts, before a gate sees one


class SuiteManifest(DigestedManifest):
    """Held-out items to score candidates on, as JSONL rows; see `schemas.suite` for their kinds.

    `answer_schema` (JSON Schema) is the schema that an answer must satisfy to count as valid. `canaries` are the ids of
    the items whose greedy tokens fingerprint a release.
    """

    schema_version: Literal[1] = 1
    tenant: Name
    name: Name
    items: int = Field(ge=1)
    files: tuple[FileEntry, ...] = Field(min_length=1)
    answer_schema: str | None = Field(None, description="JSON Schema, as text, so that it is digested as written")
    canaries: tuple[str, ...] = ()
    use: SuiteUse = added(SuiteUse.GATE)
    provenance: Provenance


class DecisionRecord(Strict):
    """Why this behaviour is trained into weights rather than put into a prompt or a retrieval index, and its cost."""

    why_weights: str = Field(min_length=1, max_length=2000)
    alternatives: str = Field("", max_length=2000, description="alternatives tried or set aside: prompt, retrieval")
    cost: str = Field("", max_length=500, description="cost of training and serving it, in the owner's words")
    worksheet: Digest | None = added(None, "of `loradeck decide`: what prompts and weights scored before")
    limitations: str = added("", "what it is known not to do well, in the owner's words", max_length=2000)


def _whole(number: float) -> float:
    """The whole number for 8.0 too: one alpha makes one digest."""
    return int(number) if number == int(number) else number


class AdapterManifest(DigestedManifest):
    """One immutable adapter version. The registry gives it its version *number*, which is not part of the manifest."""

    schema_version: Literal[1] = 1
    tenant: Name
    name: Name
    base: Digest = Field(description="digest of the base it was trained on; bound here, never read from a config")
    files: tuple[FileEntry, ...] = Field(min_length=1)
    rank: int = Field(ge=1, le=512, description="the largest, where modules differ: engines need room for it")
    alpha: Annotated[int | float, Field(gt=0, le=10**12), AfterValidator(_whole)]
    target_modules: tuple[str, ...] = Field(min_length=1)
    dora: bool = added(False, "no engine serves it: it is merged")
    config_hash: Digest = Field(description="digest of the training recipe")
    datasets: tuple[Digest, ...] = ()
    parent: Digest | None = Field(None, description="the adapter version it was trained on from")
    decision: DecisionRecord


class AdapterVersion(Strict):
    """A registered adapter version, with the number and release that the registry gave it: `acme/support v7`."""

    manifest: AdapterManifest
    digest: Digest
    version: int = Field(ge=1)
    release: Digest = Field(description="id of the release that serves base + this adapter")
    created_ms: int
    created_by: str


class Form(StrEnum):
    """What a release consists of."""

    ADAPTER = "adapter"
    MERGED = "merged"
    BASE = "base"


class Release(Strict):
    """Base + adapter version, base + merged weights, or the base alone. `label` is for people and not part of
    the id.
    """

    tenant: Name
    form: Form
    base: Digest
    adapter: Digest | None = Field(None, description="digest of the adapter version; None for base alone")
    merged: Digest | None = Field(None, description="base digest of the merged weights")
    label: Line = Field("", description="'v7', 'v7m' when merged, or 'base'")

    @classmethod
    def of_base(cls, tenant: str, base: str) -> Release:
        """The release that serves a base alone to a tenant."""
        return cls(tenant=tenant, form=Form.BASE, base=base, label="base")

    @model_validator(mode="after")
    def _parts_fit_the_form(self) -> Release:
        need: dict[Form, tuple[bool, bool]] = {
            Form.ADAPTER: (True, False),
            Form.MERGED: (True, True),
            Form.BASE: (False, False),
        }
        if (self.adapter is not None, self.merged is not None) != need[self.form]:
            raise ValueError(f"a release of form {self.form.value} must have exactly the parts of that form")
        return self

    @property
    def id(self) -> str:
        """SHA-256 (hex) of tenant, form and parts."""
        parts: dict[str, Any] = {"base": self.base, "adapter": self.adapter, "merged": self.merged}
        return digest_of({"tenant": self.tenant, "form": self.form.value, "parts": parts})

    @property
    def served_base(self) -> str:
        """Digest of the weights that an engine must be running: the merged ones, or the base."""
        return self.merged or self.base

    @property
    def signed_part(self) -> str:
        """Digest of what a signature of the release is about: its adapter, or the weights of one without."""
        return self.adapter if self.adapter is not None and self.merged is None else self.served_base

    @property
    def engine_name(self) -> str | None:
        """The name under which an engine lists it; None for releases that are the engine's own base.

        The name carries the id and is never reused.
        """
        return f"{self.tenant}-{self.id}" if self.form is Form.ADAPTER else None
