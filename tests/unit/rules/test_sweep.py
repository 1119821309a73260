"""Sweeps: their recipes, and what their runs measured beside each other."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.rules.errors import Refused
from loradeck.rules.quality.run_records import grid, measured, run_of, told
from loradeck.schemas.jobs import Job, Looked, MergeSpec, TrainSpec

FIELDS: dict[str, Any] = {
    "tenant": "acme",
    "name": "words",
    "base": "a" * 64,
    "datasets": ("d" * 64, "e" * 64),
    "decision": {"why_weights": "x"},
    "rank": 8,
    "alpha": 16,
    "mixing": {"dataset": "e" * 64, "share": 0.2},
    "validation": {"suite": "5" * 64},
}


def recipe(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate(FIELDS | changes)


def job(**changes: Any) -> Job:
    fields = {"id": "j1", "kind": "train", "tenant": "acme", "spec": recipe(), "state": "done", "created_ms": 0}
    return Job.model_validate(fields | {"by": "me"} | changes)


def test_a_grid_has_each_share_with_each_rank_once_and_alpha_goes_with_the_rank() -> None:
    found = [(one.mixing.share, one.rank, one.alpha) for one in grid(recipe(), (0.1, 0.3, 0.1), (4, 16)) if one.mixing]
    assert found == [(0.1, 4, 8), (0.1, 16, 32), (0.3, 4, 8), (0.3, 16, 32)]
    assert grid(recipe(), (), ()) == [recipe()]
    assert [one.rank for one in grid(recipe(mixing=None), (), (1, 2))] == [1, 2]
    assert [one.alpha for one in grid(recipe(mixing=None, rslora=True), (), (2, 32))] == [8, 32], "16 at rank 8"


@pytest.mark.parametrize(
    ("changes", "shares", "ranks", "said"),
    [
        ({"validation": {}}, (0.1,), (), "names no suite"),
        ({"validation": None}, (), (4,), "names no suite"),
        ({"mixing": None}, (0.1,), (), "mixes no general rows"),
        ({"parent": "f" * 64}, (), (4,), "whose rank it has"),
        ({}, (1.0,), (), "above 0 and under 1"),
        ({}, (), (513,), "1 to 512"),
        ({}, tuple(n / 100 for n in range(1, 10)), tuple(range(1, 9)), "at most 64 runs"),
    ],
)
def test_a_sweep_whose_runs_could_not_be_compared_is_refused(
    changes: dict[str, Any], shares: tuple[float, ...], ranks: tuple[int, ...], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        grid(recipe(**changes), shares, ranks)


def test_shares_of_a_known_number_of_items_have_their_interval_and_figures_of_before_say_that_n_is_unknown() -> None:
    base = {"refused_de": 0.5, "refused_de_n": 12.0, "loss": 3.0}
    chosen = {"refused_de": 0.25, "loss": 1.5, "step": 20.0, "suite_exact_n": 40.0}
    loss, refused = measured(Looked(base=base, chosen=chosen))
    assert (loss.name, loss.value, loss.base, loss.n) == ("loss", 1.5, 3.0, None)
    assert told(loss) == ("1.5 (-, n unknown)", ", base 3 (-, n unknown)")
    assert (refused.name, refused.base, refused.n) == ("refused_de", 0.5, 12)
    assert told(refused) == ("25.0% (8.9% to 53.2%, n = 12)", ", base 50.0% (25.4% to 74.6%, n = 12)")


def test_a_loss_over_rows_has_students_interval_by_its_standard_error() -> None:
    base = {"loss": 3.0, "loss_se": 0.2, "loss_n": 16.0, "accuracy_n": 2.0, "accuracy": 0.5, "accuracy_se": 0.1}
    chosen = {"loss": 1.5, "loss_se": 0.1, "accuracy": 0.75, "accuracy_se": 0.2, "refused_se": 0.5}
    accuracy, loss, refused = measured(Looked(base=base | {"refused_se_n": 4.0, "refused_se": 1.0}, chosen=chosen))
    assert told(loss) == ("1.5 (1.287 to 1.713, n = 16)", ", base 3 (2.574 to 3.426, n = 16)")
    assert told(accuracy)[0] == "75.0% (-, n = 2)", "two rows are too few for an interval"
    assert (refused.name, told(refused)[0]) == ("refused_se", "50.0% (15.0% to 85.0%, n = 4)"), "a slice of that name"


def test_a_run_that_was_aborted_says_why_beside_those_that_were_not() -> None:
    failed = run_of(job(state="failed", code="safety_fell", message="refused_de 10%, the base's 50%"))
    assert failed.why == "safety_fell: refused_de 10%, the base's 50%"
    assert (failed.measured, failed.compared, failed.share, failed.rank) == ((), 0, 0.2, 8)
    assert run_of(job(result={"adapter": "a" * 64})).measured == (), "a job of before"
    with pytest.raises(Refused, match="no training job"):
        run_of(job(kind="merge", spec=MergeSpec(tenant="acme", release="a" * 64)))
