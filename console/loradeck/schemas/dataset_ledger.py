"""The dataset ledger: the hub's counts of datasets' rows, scans, erasures, and the policy for training on them.

And the models that scans look for names with.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from loradeck.schemas.answer_ledger import LEDGER_DAYS
from loradeck.schemas.content_checks import LANGUAGES
from loradeck.schemas.freshness import MOST_DATES, MOST_FREEZES, ExpectedChange, TrainingFreeze
from loradeck.schemas.ids import YEAR_10000_MS, Digest, Label, Name, OfPointer, Reason, Strict, Wire, added
from loradeck.schemas.manifest import QualityTier, Tier
from loradeck.schemas.trace import LONGEST_SAMPLE_HOURS
from loradeck.schemas.training import WordList

TRAIN = "train"
"""The purpose that a row must allow to be trained on."""

SHARED = "improve-shared"
"""The purpose that a row must allow before weights that learnt it are for other tenants too."""

LISTED = 20
"""Most sources that a ledger entry names."""


class LedgerEntry(Strict):
    """The provenance of a dataset's rows, counted by the hub when the dataset was registered.

    Every row had complete provenance. `human + program + model` = `rows`.
    """

    dataset: Digest
    rows: int = Field(ge=1)
    human: int = Field(ge=0, description="rows that people wrote")
    program: int = Field(ge=0, description="synthetic rows made without any model (depth 0)")
    model: int = Field(ge=0, description="synthetic rows that a model wrote (depth 1 and more)")
    deepest: int = Field(ge=0, description="largest synthetic depth of a row")
    by_depth: tuple[int, ...] = added((), "where some are deeper than 1: the rows of models by depth, from 1")
    sources: tuple[str, ...] = Field(description=f"sorted, the first {LISTED}")
    distinct_sources: int = Field(ge=1)
    licence_classes: tuple[str, ...]
    consents: tuple[str, ...]
    tiers: tuple[Tier, ...]
    purposes: tuple[str, ...] = Field(description="purposes that every row allows")
    retention_days: int | None = Field(description="shortest retention of any row; None: none is limited")
    generators: tuple[Digest, ...] = Field(description="releases of ours that wrote rows")
    biases: tuple[str, ...] = added((), f"known ones, as the rows say them: sorted, the first {LISTED}")
    qualities: dict[QualityTier, int] = added(dict, "rows by quality, of those that say it")


Source = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]
"""A source of rows, or a name of a column, as a pattern: any case, and `*` stands for any characters."""


def fits(pattern: str, text: str) -> bool:
    """Tells whether a pattern is a text, ignoring case. `*` stands for any characters, and no other sign for any."""
    first, *others = pattern.lower().split("*")
    text = text.lower()
    if not others:
        return text == first
    *middle, last = others
    at = len(first)
    for part in middle:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return text.startswith(first) and text.endswith(last) and len(text) - len(last) >= at


MOST_NAMED = 100
"""Most assessors, regulated sources or regulated columns that a policy names."""


class Assessment(Strict):
    """What a named person signs: that rows of some sources may be used for some purposes. The newest of each counts."""

    source: Source = Field(description="a pattern: * stands for any characters")
    reference: str = Field(min_length=1, max_length=200, description="the impact assessment, as people find it")
    purposes: tuple[Annotated[str, StringConstraints(min_length=1, max_length=100)], ...] = Field(
        (TRAIN,), min_length=1, max_length=20, description="improve-shared is one of its own"
    )
    until_ms: int | None = Field(
        None, ge=0, lt=YEAR_10000_MS, description="milliseconds since 1970 UTC; None: until it is withdrawn"
    )
    withdrawn: bool = False


class OptedOut(Strict):
    """What a person is known by, who has opted out of training: how many words, and the digest of them at a tenant."""

    words: int = Field(ge=1, le=50)
    digest: Digest


class OptOut(Strict):
    """People whose rows do not come in at a tenant from now on, or who have withdrawn that."""

    people: tuple[OptedOut, ...] = Field(min_length=1, max_length=10_000)
    reason: Reason
    withdrawn: bool = False


class Reasons(StrEnum):
    """What becomes of reasons that have what looks like personal data."""

    KEEP = "keep"  # they are not looked at
    WARN = "warn"  # the event says so
    REFUSE = "refuse"  # nothing is done; of what goes back, the reason is kept without


class Use(StrEnum):
    """What is done with what callers ask, beyond answering them."""

    SHADOW = "shadow"  # candidates are asked it too
    JUDGE = "judge"  # a model judges the answers
    LABELLING = "labelling"  # people get answers to label


class UseTerms(Strict):
    """What a tenant allows a use for, and where: on nodes with that label `region`, or anywhere if it is empty."""

    purpose: str = Field(min_length=1, max_length=200)
    region: Label = ""


class DataPolicy(Strict):
    """The tenant's rules for its data: rows that its adapters are trained on, how long its answer ledger, feedback and
    samples of its answers are kept, whether candidates are asked what its callers ask, and when nothing is trained.
    """

    forbidden_licences: tuple[str, ...] = Field(
        ("NONE", "NOASSERTION"), description="licence classes, case-insensitive; * stands for any characters"
    )
    synthetic_cap: float = Field(0.5, ge=0, le=1, description="largest share of rows that a model wrote")
    depth_caps: tuple[Annotated[float, Field(ge=0, le=1)], ...] = added(
        (), "largest share of rows that are two deep and deeper, three and deeper, and so on", max_length=8
    )
    lift_erasures: Reason = added(
        "", "why rows that other tenants had erased may be used here; empty: they are refused"
    )
    ledger_days: int = added(
        LEDGER_DAYS,
        "days for which the answer ledger keeps what answered its requests; 0: it keeps nothing",
        ge=0,
        le=36_500,
    )
    feedback_days: int = added(
        0, "days for which feedback on its answers is kept, with its texts; 0: none is taken", ge=0, le=3_650
    )
    shadow: bool = added(False, "a candidate may be asked what callers ask; nobody gets its answers")
    sample_hours: int = added(
        0,
        "hours for which nodes keep redacted samples of bad answers with their questions; 0: none",
        ge=0,
        le=LONGEST_SAMPLE_HOURS,
    )
    input_days: int = added(
        0, "days for which counts of what callers ask are kept, without text; 0: nodes count none", ge=0, le=3_650
    )
    unrated_pairs: Reason = added(
        "", "why pairs may be trained on of which no raters are known; empty: they are refused"
    )
    rated_twice: float = added(
        0.0, "least share of rows made of judgements that two persons or more have judged", ge=0, le=1
    )
    rated_by: str = added("", "a qualification that those two have; empty: whoever they are", max_length=100)
    worksheet_required: bool = added(False, "recipes name a worksheet of `loradeck decide`")
    reasons: Reasons = added(Reasons.KEEP, "what becomes of reasons in the log with personal data")
    uses: dict[Use, UseTerms] = added(dict, "what is done with what callers ask; what is not named is not done")
    assessors: tuple[Source, ...] = added(
        (), "who may sign impact assessments; none: training asks for none", max_length=MOST_NAMED
    )
    assessed_tiers: tuple[Tier, ...] = added((), "whose rows ask for an assessment; none: all rows do", max_length=4)
    regulated_sources: tuple[Source, ...] = added(
        (), "rows of these come in only where an assessment is signed", max_length=MOST_NAMED
    )
    regulated_columns: tuple[Source, ...] = added((), "no row with one of these comes in", max_length=MOST_NAMED)
    toxic: WordList | None = added(None, "rows that hold a word of this list are counted as toxic")
    toxic_cap: float = added(1.0, "largest share of a dataset's rows that are", ge=0, le=1)
    training_freezes: tuple[TrainingFreeze, ...] = added((), "when nothing is trained", max_length=MOST_FREEZES)
    expected_changes: tuple[ExpectedChange, ...] = added((), "what its adapters may not know", max_length=MOST_DATES)


class Finding(Strict):
    """One kind of personal data or secret, and where it was found. The data itself is never repeated."""

    kind: str
    rows: int = Field(ge=1)
    where: tuple[str, ...] = Field(description=f"file and line, the first {LISTED}")


class ToxicRows(Strict):
    """How many rows of a dataset hold a word of a named list, in any text but an answer that is `rejected`."""

    list: str = Field(max_length=100, description="the name of the list")
    digest: Digest = Field(description="of the list")
    rows: int = Field(ge=0)
    where: tuple[str, ...] = Field(description=f"file and line, the first {LISTED}")


class ScanReport(Strict):
    """The hub's scan of a dataset's or suite's rows for personal data, secrets and duplicates.

    No findings means only that the kinds listed here were not found.
    """

    dataset: Digest = Field(description="or suite")
    rows: int
    looked_for: tuple[str, ...] = Field(description="kinds of personal data")
    secrets: str = Field(description="the detector of secrets, or why there was none")
    not_looked_for: tuple[str, ...]
    findings: tuple[Finding, ...]
    duplicates: int = Field(ge=0, description="rows whose content occurs earlier in the dataset")
    accepted: str | None = Field(None, description="why it was registered with findings")
    toxic: ToxicRows | None = added(None, "by the list of the tenant's policy; None: there was none")


class Reading(Strict):
    """The results of reading a dataset's rows once: its ledger entry and its scan. The reading child process returns
    it.
    """

    entry: LedgerEntry
    scan: ScanReport


class Place(Strict):
    """The place of a row in a dataset. `where`: file and line."""

    dataset: Digest
    where: str
    row: Digest = Field(description="digest of its content, equal in every dataset")
    alike: bool = added(False, "it is no wanted row, and nearly the same as one")


class Erasure(Strict):
    """Rows of a dataset that may not be used any more. Nothing trained on the dataset is promoted from now on."""

    rows: tuple[Digest, ...] = Field(min_length=1)
    retired: bool = Field(description="the releases that descend from it were revoked with it")
    reason: str = Field(min_length=1)
    request: Digest = Field(description="digest of the plan that was carried out")


class ErasureRequest(Strict):
    """A request to erase rows, named by digest or by a text that they contain.

    With `dry_run` the hub returns the plan; executing sends the plan's `rows` and `digest` back.
    """

    rows: tuple[Digest, ...] = ()
    containing: str | None = Field(None, min_length=3, max_length=1000, description="case-insensitive; never stored")
    tenants: tuple[Name, ...] = Field((), description="whose datasets; none selects all")
    near: bool = added(False, "rows that are nearly the same are wanted, too")
    retire: bool = Field(False, description="revoke the releases that descend from the rows: R steps over them")
    dry_run: bool = True
    plan: Digest | None = Field(None, description="digest of the plan that is carried out")
    reason: Reason = ""


class Named(Wire):
    """An object in a plan, by its id and the label that people know it by."""

    id: str
    label: str


class ErasurePointer(OfPointer):
    """A pointer that an erasure affects. `way_back`: the target of R now, and `way_back_after`: after it; None:
    none.
    """

    generation: int
    live: str | None = Field(None, description="the release it serves, or its candidate, that descends from the rows")
    way_back: str | None
    way_back_after: str | None

    @property
    def loses_way_back(self) -> bool:
        """Whether the erasure leaves R without a target."""
        return self.way_back is not None and self.way_back_after is None


class WeightsPlace(Wire):
    """A node with weights that descend from the rows: merged into a base, or a base trained in full."""

    base: Digest
    label: str
    node: str
    linked: bool = Field(description="whether the node has a link; one without hears of the erasure when it is back")
    managed: bool = Field(
        description="in its agent's folder of merged weights; else an engine's base, or the result of a full training"
    )


class ErasurePlan(Wire):
    """The descendants of the rows, and what an erasure would do to them.

    `digest` covers all other fields but `items`, `weights`, `alike` and `done`.
    """

    digest: Digest
    rows: tuple[Digest, ...]
    places: tuple[Place, ...]
    datasets: tuple[Named, ...] = Field(description="with the rows in them: blocked for training")
    written: tuple[Named, ...] = Field(
        (), description="datasets made of such judgements, or whose rows a release that descends wrote: blocked too"
    )
    items: tuple[Named, ...] = Field((), description="items of suites that are such rows: listed only, they stay")
    elsewhere: tuple[Named, ...] = Field(
        (), description="the same rows in datasets of tenants that were not selected: refused there, unless lifted"
    )
    unread: tuple[Named, ...] = Field((), description="datasets and suites whose files are gone, so they were not read")
    runs: tuple[Named, ...] = Field((), description="train jobs")
    cancelled: tuple[str, ...] = Field((), description="those that have not ended: they are cancelled")
    bases: tuple[Named, ...] = Field((), description="made by jobs from such rows, or from adapters trained on them")
    adapters: tuple[Named, ...] = ()
    releases: tuple[Named, ...] = ()
    tenants: tuple[Name, ...] = ()
    pointers: tuple[ErasurePointer, ...] = ()
    retire: bool = False
    weights: tuple[WeightsPlace, ...] = Field(
        (), description="on the nodes now: with `retire`, agents remove those in their folder once nothing serves them"
    )
    alike: tuple[Place, ...] = Field((), description="rows that are nearly the same, which stay")
    done: bool = Field(False, description="carried out")


class CollectRequest(Strict):
    """A request to collect garbage in the hub's artifacts.

    With `dry_run` the hub returns the plan; executing sends the plan's `digest` back.
    """

    older_than_days: float = Field(30, ge=0, description="adapters registered since then are kept, served or not")
    dry_run: bool = True
    plan: Digest | None = None


class CollectPlan(Wire):
    """The files that a garbage collection removes from the hub's artifacts.

    Documents, attestations and the log stay for ever.
    """

    digest: Digest
    adapters: tuple[Named, ...] = Field(description="whose files go; their releases are revoked with it")
    datasets: tuple[Named, ...] = Field(description="whose files go: rows of theirs were erased")
    releases: tuple[Named, ...] = Field(description="of these adapters")
    listed: tuple[Named, ...] = Field(description="kept although they are no roots, because an engine lists them")
    roots: int = Field(description="releases that must stay")
    files: int
    size: int = Field(description="bytes")
    unheard: tuple[str, ...] = Field(
        description="nodes whose engines' lists are not known; while there are any, none go"
    )
    done: bool = False


class NameModel(Strict):
    """A model of spaCy that finds names of people in one language."""

    language: str = Field(description="code of ISO 639-1, of those that are recognised")
    model: str = Field(min_length=1, max_length=500, description="an installed package, or the path of a folder")
    sha256: Digest | None = Field(None, description="of its files; a folder needs it, and another one is refused")

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.language not in LANGUAGES:
            raise ValueError(f"the language {self.language!r} is not recognised; {' '.join(sorted(LANGUAGES))} are")
        if "/" in self.model and self.sha256 is None:
            raise ValueError(f"{self.model}: a folder is named with the sha256 of its files")
        return self


class NameModels(Strict):
    """The models, and the interpreter whose environment has Presidio. Rows in other languages are not searched."""

    python: Annotated[str, StringConstraints(max_length=500)] = Field("", description="empty: this one")
    models: tuple[NameModel, ...] = Field(min_length=1, max_length=len(LANGUAGES))

    @model_validator(mode="after")
    def _are_one_each(self) -> Self:
        if len({one.language for one in self.models}) < len(self.models):
            raise ValueError("a language has one model")
        return self
