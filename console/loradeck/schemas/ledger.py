"""The ledger of datasets: what the hub has read of their rows, and what a tenant allows to be trained on."""

from __future__ import annotations

from pydantic import Field

from loradeck.schemas.ids import Digest, Strict
from loradeck.schemas.manifest import Tier

TRAIN = "train"
"""The purpose that training needs."""

LISTED = 20
"""Sources a ledger entry names at most."""


class LedgerEntry(Strict):
    """A dataset's rows, counted by the hub when it was registered. Every row had all of its provenance.

    `human + program + model` = `rows`.
    """

    dataset: Digest
    rows: int = Field(ge=1)
    human: int = Field(ge=0, description="rows that people wrote")
    program: int = Field(ge=0, description="synthetic rows that no model had a part in (depth 0)")
    model: int = Field(ge=0, description="synthetic rows that a model wrote (depth 1 and more)")
    deepest: int = Field(ge=0, description="largest synthetic depth of a row")
    sources: tuple[str, ...] = Field(description=f"sorted, the first {LISTED}")
    distinct_sources: int = Field(ge=1)
    licence_classes: tuple[str, ...]
    consents: tuple[str, ...]
    tiers: tuple[Tier, ...]
    purposes: tuple[str, ...] = Field(description="what every row may be used for")
    retention_days: int | None = Field(description="of the row that must go first; None: no row has to")
    generators: tuple[Digest, ...] = Field(description="releases of ours that wrote rows")


class DataPolicy(Strict):
    """Which rows a tenant's adapters may be trained on."""

    forbidden_licences: tuple[str, ...] = Field(
        ("NONE", "NOASSERTION"),
        description="licence classes, whatever their case; * stands for any characters",
    )
    synthetic_cap: float = Field(0.5, ge=0, le=1, description="largest share of rows that a model wrote")


class Place(Strict):
    """Where a row of a dataset stands. `where`: file and line."""

    dataset: Digest
    where: str
    row: Digest = Field(description="digest of its content, the same in every dataset")


class Erasure(Strict):
    """Rows of a dataset that may not be used any more. Nothing trained on the dataset moves forward from now on."""

    rows: tuple[Digest, ...] = Field(min_length=1)
    retired: bool = Field(description="the releases that descend from it were revoked with it")
    reason: str = Field(min_length=1)
    request: Digest = Field(description="digest of the plan that was carried out")
