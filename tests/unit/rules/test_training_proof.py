"""Whether training on a node is proven, and in which words it is said."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.rules.serving.training_proof import STALE_DAYS, faults, standing
from loradeck.schemas.training import TrainingProof

DAY_MS = 86_400_000
VERSIONS = {"torch": "2.15.0", "driver": "580.1"}


def proof(**changes: Any) -> TrainingProof:
    fields: dict[str, Any] = {
        "base": "b" * 64,
        "device": "H100",
        "versions": VERSIONS,
        "steps": 20,
        "planned_bytes": 10,
        "peak_bytes": 12,
        "loss": 1.5,
        "apart": 0.01,
        "straight": True,
        "resumed": True,
        "tokens_per_second": 100.0,
        "seconds": 60.0,
        "at_ms": 100 * DAY_MS,
    }
    return TrainingProof.model_validate(fields | changes)


def said(found: TrainingProof | None, *, versions: Any = VERSIONS, days: float = 0, gpu: str = "H100") -> str:
    return standing(found, versions, {gpu} if gpu else set(), int((100 + days) * DAY_MS))


def test_a_trial_that_shows_nothing_wrong_is_proof_for_a_month_and_then_stale() -> None:
    assert faults(proof()) == ()
    assert said(proof()) == "proven today on H100"
    assert said(proof(), days=1.5) == "proven 1 day ago on H100"
    assert said(proof(), days=STALE_DAYS) == f"proven {STALE_DAYS} days ago on H100"
    assert said(proof(), days=STALE_DAYS + 1) == f"STALE: proven {STALE_DAYS + 1} days ago on H100"
    assert said(proof(apart=None)) == "proven today on H100", "fp32 did not fit"


def test_a_node_without_a_trial_is_unproven_and_one_that_cannot_train_says_nothing() -> None:
    assert said(None) == "UNPROVEN HERE"
    assert said(None, versions={"driver": "580.1"}) == ""


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"straight": False}, "two runs of one recipe gave other bytes"),
        ({"resumed": False}, "a resumed run gave other bytes"),
        ({"apart": 0.051}, "5.1% apart, 5% are allowed"),
        ({"peak_bytes": 9}, "less memory than it needs by the plan"),
    ],
)
def test_a_trial_that_went_wrong_proves_nothing(wrong: dict[str, Any], says: str) -> None:
    assert len(faults(proof(**wrong))) == 1
    assert said(proof(**wrong)).startswith("UNPROVEN HERE: ")
    assert says in said(proof(**wrong))


def test_a_proof_is_over_with_the_versions_and_the_cards_that_it_was_made_with() -> None:
    newer = {**VERSIONS, "torch": "2.16.0"}
    assert said(proof(), versions=newer) == "UNPROVEN HERE: torch was 2.15.0 and is 2.16.0"
    assert said(proof(), versions={"torch": "2.15.0"}) == "UNPROVEN HERE: driver was 580.1 and is not there"
    assert said(proof(), gpu="H200") == "UNPROVEN HERE: its trial ran on H100, and it has H200"


def test_a_trial_on_a_cpu_says_that_it_proves_nothing_of_a_gpu() -> None:
    on_cpu = proof(device="cpu")
    assert said(on_cpu, gpu="") == "proven today on its CPU, which says nothing of a GPU"
    assert said(on_cpu) == "UNPROVEN HERE: its trial ran on cpu, and it has H100"
