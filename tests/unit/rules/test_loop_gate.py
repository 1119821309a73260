"""The gates of `examples/loop` against what they are to refuse, and the items that they are judged by."""

from __future__ import annotations

import json
import tomllib

import pytest
from tests.fleets.in_process.log import digest, rid

from loop.__main__ import GATE, LATER_GATE, TICKETS, held_out, held_out_late
from loradeck.rules.quality.gates import GateRecords, judge, require_big_enough
from loradeck.schemas.attestation import EvaluationReport, ItemResult
from loradeck.schemas.gate import GateConfig

SUITES = {name: digest(name) for name in ("known", "fraud")}
SIZES = {"known": len(held_out()), "fraud": len(held_out_late())}


def gate(text: str) -> GateConfig:
    settings = tomllib.loads(text)
    for part in (settings, *settings.get("also", ())):
        part["suite"] = SUITES[part["suite"]]
    return GateConfig.model_validate(settings)


def answered(release: str, suite: str, right: int, of: int) -> EvaluationReport:
    items = tuple(ItemResult(id=f"i{n}", answer="", exact=n < right, valid=True) for n in range(of))
    found = {"n": of, "exact": right, "valid": of, "items": items, "seconds": 1.0}
    return EvaluationReport(release=rid(release), suite=SUITES[suite], **found)


def first_passes(right: int, of: int = SIZES["known"]) -> bool:
    records = GateRecords(
        reports={SUITES["known"]: answered("v1", "known", right, of)},
        live={SUITES["known"]: answered("base", "known", 0, of)},
    )
    return judge(rid("v1"), rid("base"), gate(GATE), records).passed


@pytest.mark.parametrize(("right", "of"), [(10, 23), (18, 23), (20, 23), (18, 40), (34, 40)])
def test_a_version_that_has_not_learnt_its_topics_does_not_pass(right: int, of: int) -> None:
    assert not first_passes(right, of)


@pytest.mark.parametrize("right", [35, 40])
def test_a_version_that_has_learnt_its_topics_passes(right: int) -> None:
    assert first_passes(right)


@pytest.mark.parametrize(
    ("known", "fraud", "passes"), [(40, 24, True), (38, 17, True), (40, 16, False), (40, 0, False), (32, 24, False)]
)
def test_the_next_version_has_to_know_fraud_and_what_was_known_before(known: int, fraud: int, passes: bool) -> None:
    """It is refused for each of the two alone."""
    right = {"known": known, "fraud": fraud}
    records = GateRecords(
        reports={SUITES[name]: answered("v2", name, right[name], size) for name, size in SIZES.items()},
        live={SUITES["known"]: answered("v1", "known", 40, SIZES["known"])},
    )
    assert judge(rid("v2"), rid("v1"), gate(LATER_GATE), records).passed is passes


def test_the_suites_are_large_enough_for_what_is_asked_and_no_row_has_an_item_of_them() -> None:
    require_big_enough(gate(LATER_GATE), {SUITES[name]: size for name, size in SIZES.items()})
    assert SIZES == {"known": 40, "fraud": 24}
    asked = {item["prompt"] for item in (*held_out(), *held_out_late())}
    rows = [json.loads(line)["prompt"] for line in (TICKETS / "tickets-v1.jsonl").read_text().splitlines()]
    assert len(asked) == 64
    assert not asked & set(rows)
