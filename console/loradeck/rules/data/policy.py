"""The tenant's data policy: which rows it may train on, when it trains nothing, and what callers' requests are for.

Rows are looked at for whether they were read into the ledger, licences, purposes, retention, how many models wrote, and
impact assessments, by which a named person has signed for their sources. Training freezes stop train and generate jobs,
as freeze windows stop promotes. Each use of what callers ask, beyond answering them, is off until its tenant has a
purpose for it, and a region.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

from loradeck.rules.clocks import DAY_MS, utc
from loradeck.rules.errors import Refused
from loradeck.rules.quality.figures import share
from loradeck.schemas.dataset_ledger import (
    SHARED,
    TRAIN,
    Assessment,
    DataPolicy,
    LedgerEntry,
    ScanReport,
    Use,
    UseTerms,
    fits,
)
from loradeck.schemas.freshness import TrainingFreeze
from loradeck.schemas.ids import short
from loradeck.schemas.incident import Incident
from loradeck.schemas.manifest import QualityTier
from loradeck.schemas.tenant import TenantState
from loradeck.schemas.training import QualityWeights


@dataclass(frozen=True, kw_only=True)
class DatedEntry:
    """A ledger entry and the time it was made, in milliseconds since 1970 UTC."""

    entry: LedgerEntry
    at_ms: int


def barred_rows(tenant: str, policy: DataPolicy, erased_of: Mapping[str, Set[str]]) -> frozenset[str]:
    """Lists the rows that may not come in at a tenant, by digest: its own erased ones, and others' unless lifted.

    `erased_of`: tenant -> digests of the rows that it had erased.
    """
    of = [rows for other, rows in erased_of.items() if other == tenant or not policy.lift_erasures]
    return frozenset[str]().union(*of)


def check_licences(entry: LedgerEntry, policy: DataPolicy, called: str) -> None:
    """Checks a dataset's licences against the tenant's policy. `called`: the dataset's name in messages.

    Raises: Refused: `licence_forbidden`.
    """
    for licence in entry.licence_classes:
        _check_licence(licence, policy, called, "leave those rows out")


def check_toxic(scan: ScanReport, policy: DataPolicy, called: str) -> None:
    """Checks the share of a dataset's rows that hold a word of the tenant's list. `called`: its name in messages.

    Raises: Refused: `toxic_rows`.
    """
    found = scan.toxic
    if found is not None and found.rows > policy.toxic_cap * scan.rows:
        raise Refused(
            "toxic_rows",
            f"{found.rows / scan.rows:.1%} of the rows are toxic by the list {found.list!r}; the tenant's cap is "
            f"{policy.toxic_cap:.1%}",
            detail=f"{called}: {found.rows:,} of {scan.rows:,} rows ({', '.join(found.where[:3])})",
            fix="leave those rows out, or have the policy changed (loradeck tenant data)",
            context={"toxic": found.rows, "rows": scan.rows, "cap": policy.toxic_cap, "where": list(found.where)},
        )


def toxic_in_words(scan: ScanReport) -> str:
    """Says how many rows of a dataset are toxic, by which list, with the interval of the share, for people."""
    if (found := scan.toxic) is None:
        return "not counted, as the tenant has no list"
    return f"{share(found.rows, scan.rows)} of rows by {found.list}, {short(found.digest)}"


def check_teacher(licence: str, policy: DataPolicy) -> None:
    """Checks that a tenant may train on what a teacher under this licence makes.

    Raises: Refused: `licence_forbidden`.
    """
    _check_licence(licence, policy, "the teacher", "choose another teacher")


def _check_licence(licence: str, policy: DataPolicy, called: str, fix: str) -> None:
    for pattern in policy.forbidden_licences:
        if fnmatchcase(licence.lower(), pattern.lower()):
            raise Refused(
                "licence_forbidden",
                f"the tenant's data policy forbids to train on what is under {licence}",
                detail=f"{called}: {licence} fits {pattern}",
                fix=f"{fix}, or have the policy changed (loradeck tenant data)",
                context={"licence": licence, "pattern": pattern},
            )


def check_training(
    datasets: Sequence[str],
    kept: Mapping[str, DatedEntry],
    policy: DataPolicy,
    *,
    now_ms: int,
    names: Mapping[str, str],
) -> None:
    """Checks that a tenant may train on these datasets together.

    The share and the depth of synthetic rows are those of the mix: human rows in one dataset count for the others.

    Args:
        datasets: digests, each once.
        kept: dataset -> its ledger entry.
        names: dataset -> its name in messages.

    Raises: Refused: `no_ledger_entry`, `licence_forbidden`, `purpose_not_allowed`, `retention_over`, `synthetic_share`,
    `synthetic_depth`.
    """
    for digest in datasets:
        _check_one(digest, kept.get(digest), policy, now_ms, names.get(digest, short(digest)))
    entries = [kept[digest].entry for digest in datasets]
    rows, by_model = sum(e.rows for e in entries), sum(e.model for e in entries)
    if by_model > policy.synthetic_cap * rows:
        raise Refused(
            "synthetic_share",
            f"a model wrote {by_model / rows:.0%} of the rows; the tenant's cap is {policy.synthetic_cap:.0%}",
            detail=f"{by_model:,} of {rows:,} rows",
            fix="add rows that people or programs wrote, or fewer of the model's",
            context={"model": by_model, "rows": rows, "cap": policy.synthetic_cap},
        )
    for depth, cap in enumerate(policy.depth_caps, start=2):
        if (deep := sum(_as_deep(entry, depth) for entry in entries)) > cap * rows:
            raise Refused(
                "synthetic_share",
                f"{deep / rows:.0%} of the rows are {depth} deep or deeper; the tenant's cap is {cap:.0%}",
                detail=f"{deep:,} of {rows:,} rows",
                fix="add rows that people or programs wrote, or leave deep ones out",
                context={"model": deep, "rows": rows, "cap": cap, "depth": depth},
            )
    deepest = max(entry.deepest for entry in entries)
    if deepest > 1 and not any(entry.human for entry in entries):
        raise Refused(
            "synthetic_depth",
            f"rows of depth {deepest} and none that a person wrote: models taught by models drift",
            detail=", ".join(f"{names.get(e.dataset, short(e.dataset))}: depth {e.deepest}" for e in entries),
            fix="add a dataset with human rows",
            context={"depth": deepest},
        )


def check_shared(learnt: Sequence[str], kept: Mapping[str, DatedEntry], names: Mapping[str, str]) -> None:
    """Checks that all rows which weights have learnt may improve what other tenants use. `learnt`: their datasets.

    Raises: Refused: `purpose_not_allowed`.
    """
    unknown = "" if learnt else "nobody knows what they learnt"
    lacking = [names[one] for one in learnt if one not in kept or SHARED not in kept[one].entry.purposes]
    if unknown or lacking:
        raise Refused(
            "purpose_not_allowed",
            "the weights are not for other tenants: rows that they learnt may not improve shared models",
            detail=unknown or ", ".join(lacking),
            fix=f"train on rows whose purpose names {SHARED}: a contract to serve a customer alone does not allow it",
        )


def check_quality(
    weights: QualityWeights, datasets: Sequence[str], kept: Mapping[str, DatedEntry], names: Mapping[str, str]
) -> None:
    """Checks that a recipe's weights by quality leave rows of each of its datasets. `names`: as of `check_training`.

    Raises: Refused: `no_rows_left`.
    """
    for digest in datasets:
        entry = kept[digest].entry
        if not any(weights.of(quality) for quality, rows in rows_by_quality(entry).items() if rows):
            raise Refused(
                "no_rows_left",
                "the recipe leaves out every row of a dataset",
                detail=f"{names.get(digest, short(digest))}: {qualities_in_words(entry)}",
                fix="give such rows a weight ([quality]), or leave the dataset out",
            )


def rows_by_quality(entry: LedgerEntry) -> dict[QualityTier | None, int]:
    """Counts a dataset's rows by their quality; None: those that do not say it."""
    return dict([*entry.qualities.items(), (None, entry.rows - sum(entry.qualities.values()))])


def qualities_in_words(entry: LedgerEntry) -> str:
    """Says how many of a dataset's rows are of which quality, for people: '40 gold, 2 not stated'."""
    counts = rows_by_quality(entry)
    said = (f"{counts[one]:,} {one or 'not stated'}" for one in (*QualityTier, None) if counts.get(one))
    return ", ".join(said)


def _as_deep(entry: LedgerEntry, depth: int) -> int:
    """Rows of a dataset that are so deep or deeper; of an entry that does not say it, all of models if one is."""
    if entry.by_depth:
        return sum(entry.by_depth[depth - 1 :])
    return entry.model if entry.deepest >= depth else 0


def _check_one(digest: str, kept: DatedEntry | None, policy: DataPolicy, now_ms: int, called: str) -> None:
    if kept is None:
        raise Refused(
            "no_ledger_entry",
            "the dataset's rows were never read into the ledger",
            detail=f"{called}: {digest}",
            fix="register it again (loradeck dataset add), with the provenance of every row",
        )
    check_licences(kept.entry, policy, called)
    if TRAIN not in kept.entry.purposes:
        raise Refused(
            "purpose_not_allowed",
            "rows of the dataset may not be used for training",
            detail=f"{called}: every row allows {', '.join(kept.entry.purposes) or 'nothing'}",
            fix="leave those rows out, or get consent for it and register them anew",
            context={"purposes": list(kept.entry.purposes)},
        )
    days = kept.entry.retention_days
    if days is not None and now_ms >= kept.at_ms + days * DAY_MS:
        raise Refused(
            "retention_over",
            "the retention period of rows in the dataset is over",
            detail=f"{called}: kept for {days} days, registered {(now_ms - kept.at_ms) / DAY_MS:.1f} days ago",
            fix="register the rows that may be kept longer as a new dataset",
            context={"retention_days": days},
        )


def signed_for(assessments: Iterable[Assessment], purpose: str, now_ms: int) -> tuple[str, ...]:
    """Lists the sources, as patterns, that may be used for a purpose now. `assessments`: the newest of each pattern."""
    return tuple(
        one.source
        for one in assessments
        if not one.withdrawn and purpose in one.purposes and (one.until_ms is None or now_ms < one.until_ms)
    )


def check_assessed(
    entry: LedgerEntry,
    policy: DataPolicy,
    assessments: Mapping[str, Assessment],
    purpose: str,
    *,
    now_ms: int,
    called: str,
) -> None:
    """Checks that somebody whom the policy names has signed for each source of a dataset whose rows ask for it.

    Args:
        assessments: pattern of sources -> the newest assessment of it.
        called: the dataset's name in messages.

    Raises: Refused: `no_dpia`.
    """
    asked = set(entry.tiers).intersection(policy.assessed_tiers) if policy.assessed_tiers else True
    if not policy.assessors or not asked:
        return
    signed = signed_for(assessments.values(), purpose, now_ms)
    lacking = [source for source in entry.sources if not any(fits(pattern, source) for pattern in signed)]
    if entry.distinct_sources > len(entry.sources) and "*" not in signed:
        lacking.append(f"{entry.distinct_sources - len(entry.sources)} more that the ledger does not name")
    if lacking:
        raise Refused(
            "no_dpia",
            f"nobody has signed an impact assessment for sources of the dataset, for {purpose}",
            detail=f"{called}: {'; '.join(lacking)}",
            fix=f"{' or '.join(policy.assessors)} may: loradeck tenant assess TENANT --source SOURCE --reference DPIA",
            context={"sources": lacking, "purpose": purpose},
        )


def freezes_of_training(
    tenant: TenantState, datasets: Iterable[tuple[str, LedgerEntry]], incident: Incident | None, now_ms: int
) -> Iterator[Refused]:
    """The refusals of a train or generate job of a tenant, one for each freeze that holds it.

    A source that is frozen holds every dataset that names it, and those that name so many sources that the ledger has
    not all of them.

    Args:
        datasets: what the job reads, with the names of the datasets; several may have one name.
        incident: an open one with a pointer of the tenant.
    """
    datasets = tuple(datasets)
    for freeze in tenant.data.training_freezes:
        if freeze.from_ms <= now_ms and (freeze.until_ms is None or now_ms < freeze.until_ms):
            held = _freezes(freeze, datasets)
            if held is not None:
                until = "until it is lifted" if freeze.until_ms is None else f"until {utc(freeze.until_ms)}"
                yield _training_frozen(tenant.name, f"{until}{held}", freeze.reason, freeze.model_dump(mode="json"))
    if incident is not None:
        until = f"until incident {incident.id} is closed"
        yield _training_frozen(tenant.name, until, incident.title, {"incident": incident.id})


def _freezes(freeze: TrainingFreeze, datasets: Iterable[tuple[str, LedgerEntry]]) -> str | None:
    """Why a freeze holds a job, in words that follow when it ends; None: it is about other sources."""
    if not freeze.source:
        return ""
    for name, entry in datasets:
        for source in entry.sources:
            if fits(freeze.source, source):
                return f": {name} has rows of {source}"
        if entry.distinct_sources > len(entry.sources):
            return f": {name} has rows of {entry.distinct_sources} sources, and {freeze.source} may be among them"
    return None


def _training_frozen(tenant: str, until: str, why: str, context: dict[str, object]) -> Refused:
    return Refused(
        "training_frozen",
        f"training of {tenant} is frozen {until}",
        detail=why,
        fix="wait until then, or pass it: --override WHY; an event keeps that",
        context=context,
    )


REGION = "region"
"""The label of nodes that says where they are."""


def terms_of_use(tenant: TenantState, use: Use) -> UseTerms:
    """The purpose and region of a use. Raises: Refused: use_not_allowed."""
    found = tenant.data.uses.get(use)
    if found is None:
        raise Refused(
            "use_not_allowed",
            f"{tenant.name} has stated no purpose for {use.value}",
            fix=f"loradeck tenant data {tenant.name} --use {use.value}=PURPOSE[@REGION] --reason WHY",
        )
    return found


def check_use(tenant: TenantState, use: Use, placed: Mapping[str, str]) -> None:
    """Checks that a use on the nodes with these labels is one that its tenant has allowed.

    `placed`: the labels that every node of the route or of its pool carries.

    Raises: Refused: use_not_allowed, wrong_region.
    """
    region = terms_of_use(tenant, use).region
    if region and placed.get(REGION) != region:
        raise Refused(
            "wrong_region",
            f"{tenant.name} allows {use.value} in {region} alone, and the route may be served elsewhere",
            detail=f"its nodes' label {REGION}: {placed.get(REGION, 'any')}",
            fix=f"place the route on nodes with {REGION}={region}, or allow another region",
        )
