"""Impact assessments: which sources have to be signed for, by whom, for what, and until when."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.rules.data.policy import check_assessed, signed_for
from loradeck.rules.errors import Refused
from loradeck.schemas.dataset_ledger import SHARED, TRAIN, Assessment, DataPolicy, LedgerEntry, fits

POLICY = DataPolicy(assessors=("dpo",))


def entry(*sources: str, distinct: int | None = None, tier: str = "confidential") -> LedgerEntry:
    fields: dict[str, Any] = {"dataset": "d" * 64, "rows": 3, "human": 3, "program": 0, "model": 0, "deepest": 0}
    fields |= {"licence_classes": ("MIT",), "consents": ("own",), "tiers": (tier,), "purposes": ("train",)}
    fields |= {"retention_days": None, "generators": (), "sources": sources}
    return LedgerEntry(distinct_sources=distinct or len(sources), **fields)


def lacking(policy: DataPolicy, rows: LedgerEntry, *signed: Assessment, purpose: str = TRAIN) -> list[str]:
    """The sources that nobody has signed for, as the refusal names them."""
    try:
        check_assessed(rows, policy, {one.source: one for one in signed}, purpose, now_ms=10, called="acme/t")
    except Refused as refused:
        return [refused.code, *refused.context["sources"]]
    return []


def signed(source: str, **more: Any) -> Assessment:
    return Assessment(source=source, reference="DPIA-12", **more)


def test_where_nobody_is_named_nothing_is_asked() -> None:
    assert lacking(DataPolicy(), entry("crm")) == []


def test_every_source_has_to_be_signed_for_and_a_pattern_covers_several() -> None:
    rows = entry("crm.patients", "crm.visits", "chat")
    assert lacking(POLICY, rows) == ["no_dpia", "crm.patients", "crm.visits", "chat"]
    assert lacking(POLICY, rows, signed("CRM.*")) == ["no_dpia", "chat"]
    assert lacking(POLICY, rows, signed("crm.*"), signed("chat")) == []


@pytest.mark.parametrize(
    ("given", "covers"),
    [
        ({}, True),
        ({"until_ms": 11}, True),
        ({"until_ms": 10}, False),
        ({"withdrawn": True}, False),
        ({"purposes": (SHARED,)}, False),
        ({"purposes": (TRAIN, SHARED)}, True),
    ],
)
def test_an_assessment_counts_for_its_purposes_and_until_its_end(given: dict[str, Any], covers: bool) -> None:
    assert (lacking(POLICY, entry("crm"), signed("crm", **given)) == []) is covers
    assert signed_for([signed("crm", **given)], TRAIN, 10) == (("crm",) if covers else ())


def test_sources_that_the_ledger_does_not_name_are_covered_by_a_star_alone() -> None:
    many = entry("crm", distinct=30)
    assert lacking(POLICY, many, signed("crm")) == ["no_dpia", "29 more that the ledger does not name"]
    assert lacking(POLICY, many, signed("*")) == []


def test_only_the_tiers_that_a_policy_names_ask_for_one() -> None:
    policy = POLICY.model_copy(update={"assessed_tiers": ("restricted",)})
    assert lacking(policy, entry("crm")) == []
    assert lacking(policy, entry("crm", tier="restricted")) == ["no_dpia", "crm"]


@pytest.mark.parametrize(
    ("pattern", "text", "does"),
    [
        ("crm.*", "CRM.patients", True),
        ("crm", "crm.patients", False),
        ("c?m", "crm", False),
        ("a[b]", "A[B]", True),
        ("*", "", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*b*c", "abcbc", True),
        ("*b*c", "acb", False),
        ("*a" * 100, "a" * 99, False),
    ],
)
def test_a_star_is_the_only_sign_of_a_pattern(pattern: str, text: str, does: bool) -> None:
    assert fits(pattern, text) is does
