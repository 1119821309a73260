"""Impact assessments: which sources of rows a named person has signed for, for which purposes, and until when."""

from collections.abc import Iterable, Mapping

from loradeck.rules.errors import Refused
from loradeck.schemas.dataset_ledger import Assessment, DataPolicy, LedgerEntry, fits


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
