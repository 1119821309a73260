"""The ledger of datasets: what the hub has read of their rows, and what a tenant allows to be trained on."""

from __future__ import annotations

from pydantic import Field

from loradeck.schemas.ids import Digest, Name, Reason, Strict, Wire
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


class Finding(Strict):
    """One kind of personal data or secret. What was found is never repeated."""

    kind: str
    rows: int = Field(ge=1)
    where: tuple[str, ...] = Field(description=f"file and line, the first {LISTED}")


class ScanReport(Strict):
    """What the hub looked for in a dataset's rows, and found. Without findings it says no more than that."""

    dataset: Digest = Field(description="or suite")
    rows: int
    looked_for: tuple[str, ...] = Field(description="kinds of personal data")
    secrets: str = Field(description="what looked for secrets, or why nothing did")
    not_looked_for: tuple[str, ...]
    findings: tuple[Finding, ...]
    duplicates: int = Field(ge=0, description="rows whose content stood in the dataset before")
    accepted: str | None = Field(None, description="why it was registered with findings")


class Reading(Strict):
    """All that one reading of a dataset's rows has told."""

    entry: LedgerEntry
    scan: ScanReport


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


class ErasureRequest(Strict):
    """Rows to be erased, by their digests or by a text they contain. `dry_run` returns the plan; executing sends
    the plan's `rows` and `digest` back.
    """

    rows: tuple[Digest, ...] = ()
    containing: str | None = Field(None, min_length=3, max_length=1000, description="whatever its case; never kept")
    tenants: tuple[Name, ...] = Field((), description="whose datasets; none selects all")
    retire: bool = Field(False, description="revoke the releases that descend from the rows: R steps over them")
    dry_run: bool = True
    plan: Digest | None = Field(None, description="digest of the plan that is carried out")
    reason: Reason = ""


class Named(Wire):
    """Something of a plan with what people call it."""

    id: str
    label: str


class ErasurePointer(Wire):
    """A pointer that a plan touches. `way_back`: where R goes now, and where it would go; None: nowhere."""

    tenant: Name
    route: Name
    generation: int
    live: str | None = Field(None, description="the release it serves, where that descends from the rows")
    way_back: str | None
    way_back_after: str | None

    @property
    def loses_way_back(self) -> bool:
        return self.way_back is not None and self.way_back_after is None


class ErasurePlan(Wire):
    """What descends from the rows, and what an erasure would do. `digest` covers everything else."""

    digest: Digest
    rows: tuple[Digest, ...]
    places: tuple[Place, ...]
    datasets: tuple[Named, ...] = Field(description="with the rows in them: blocked for training")
    written: tuple[Named, ...] = Field((), description="datasets whose rows a release that descends wrote: blocked too")
    items: tuple[Named, ...] = Field((), description="items of suites that are such rows: they stay, and are told")
    unread: tuple[Named, ...] = Field((), description="whose files are gone: what is in them is not known")
    runs: tuple[Named, ...] = Field((), description="train jobs")
    cancelled: tuple[str, ...] = Field((), description="those that have not ended: they are cancelled")
    adapters: tuple[Named, ...] = ()
    releases: tuple[Named, ...] = ()
    tenants: tuple[Name, ...] = ()
    pointers: tuple[ErasurePointer, ...] = ()
    retire: bool = False
    done: bool = Field(False, description="carried out")


class CollectRequest(Strict):
    """`dry_run` returns the plan; executing sends the plan's `digest` back."""

    older_than_days: float = Field(30, ge=0, description="adapters registered since then are kept, served or not")
    dry_run: bool = True
    plan: Digest | None = None


class CollectPlan(Wire):
    """Which files go from the hub's artifacts. Documents, attestations and the log stay for ever."""

    digest: Digest
    adapters: tuple[Named, ...] = Field(description="whose files go; their releases are revoked with it")
    datasets: tuple[Named, ...] = Field(description="whose files go: rows of theirs were erased")
    releases: tuple[Named, ...] = Field(description="of these adapters")
    listed: tuple[Named, ...] = Field(description="no roots, and kept: an engine lists them")
    roots: int = Field(description="releases that must stay")
    files: int
    size: int = Field(description="bytes")
    unheard: tuple[str, ...] = Field(
        description="nodes whose engines' lists are not known; while there are any, none go"
    )
    done: bool = False
