"""The tenant's data policy: rows not read into the ledger, licences, purposes, retention, and rows by models."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.rules.quality.figures import share
from loradeck.schemas.dataset_ledger import SHARED, TRAIN, DataPolicy, LedgerEntry, ScanReport
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import QualityTier
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
