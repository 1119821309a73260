"""The suite for selection of a recipe: the best checkpoint by it is published, and a run that gets worse on it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.executors.running import DATASET, SUITE, Bench, Ended, Row, write_rows
from tests.integration.executors.test_safety import ROWS, said

from loradeck.schemas.executor import DATA_BYTES, EXIT_BAD_SPEC, EXIT_DIVERGED, EXIT_OK, ExecutorEventType
from loradeck.schemas.jobs import Looked
from loradeck.schemas.training import OF_ITEMS, SUITE_RIGHT, Validation
from loradeck_agent.executors.protocol import Diverged
from loradeck_agent.executors.rows import Suite
from loradeck_agent.executors.training.validation import Selection, _rank, told


def trained(bench: Bench, items: list[Row], **validation: Any) -> Ended:
    """Teaches to answer yes to everything, looking after each 20 steps."""
    recipe = bench.recipe(
        steps=40,
        learning_rate=2e-2,
        validation={"rows": 1, "every": 20, "suite": SUITE, "max_new_tokens": 8, **validation},
    )
    rows, suite = write_rows(bench.root / "task.jsonl", ROWS), write_rows(bench.root / "suite.jsonl", items)
    return bench.run(recipe, {DATASET: str(rows), SUITE: str(suite)})


def test_a_run_that_gets_worse_on_its_suite_for_selection_is_stopped(bench: Bench) -> None:
    ended = trained(bench, [{"id": str(n), "prompt": "sing", "answer": said(bench, "sing")} for n in range(4)])
    assert (ended.status, ended.last.code) == (EXIT_DIVERGED, "suite_fell")
    assert "after step 20 0% of the suite for selection is right, 100% was before" in ended.last.message
    assert not ended.out.exists()


def test_a_suite_of_which_just_as_much_less_is_right_as_the_recipe_allows_ends_nothing() -> None:
    held = Selection(Suite((), None), Validation(rows=1, suite=SUITE, worse=0.2))
    base, sizes = {"step": 0.0, SUITE_RIGHT: 0.8}, {"step": 20.0, SUITE_RIGHT + OF_ITEMS: 1000.0}
    held.check([base, {**sizes, SUITE_RIGHT: 0.6}], 10)  # 0.8 - 0.6 is more than 0.2 in binary
    with pytest.raises(Diverged, match="55% of the suite"):
        held.check([base, {**sizes, SUITE_RIGHT: 0.55}], 10)


def test_a_run_whose_suite_has_too_few_items_to_tell_a_fall_from_chance_goes_on() -> None:
    held = Selection(Suite((), None), Validation(rows=1, suite=SUITE, worse=0.2))
    base, few = {"step": 0.0, SUITE_RIGHT: 0.8}, {"step": 20.0, SUITE_RIGHT + OF_ITEMS: 20.0}
    held.check([base, {**few, SUITE_RIGHT: 0.4}], 10)  # 16 and 8 of 20: 0.011, at one of 55 comparisons
    with pytest.raises(Diverged, match="40% of the suite"):
        held.check([base, {**few, SUITE_RIGHT: 0.4}], 1)
    with pytest.raises(Diverged, match="20% of the suite"):
        held.check([base, {**few, SUITE_RIGHT: 0.2}], 10)


def test_the_published_checkpoint_and_its_base_are_told_with_their_figures_and_how_many_it_is_the_best_of(
    bench: Bench,
) -> None:
    kinds = [
        {"id": "1", "prompt": "hello", "answer": "yes"},
        {"id": "2", "kind": "choice", "prompt": "hello", "choices": ["yes", "no such thing"], "answer": "yes"},
        {"id": "3", "kind": "json", "prompt": "hello", "schema": {"type": "object"}},
    ]
    ended = trained(bench, kinds)
    assert ended.status == EXIT_OK, ended.last
    looks = [e.metrics for e in ended.of_type(ExecutorEventType.PROGRESS) if "val_suite_exact" in e.metrics]
    assert looks[0]["val_suite_exact"] < looks[1]["val_suite_exact"] == pytest.approx(2 / 3)
    looked = Looked.model_validate(ended.last.data | {"base": ended.last.data["looks"][0]})
    assert looked.chosen["suite_exact"] == pytest.approx(2 / 3)
    assert (looked.chosen["suite_exact_n"], looked.chosen_step, looked.compared) == (3, looked.chosen["step"], 2)


def test_a_suite_with_a_broken_schema_is_refused_before_the_first_step(bench: Bench) -> None:
    ended = trained(bench, [{"id": "1", "kind": "json", "prompt": "hello", "schema": {"type": "nothing"}}])
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")


def test_more_right_items_of_the_suite_count_before_exact_answers_and_loss() -> None:
    looks = [{"loss": 0.1, "exact": 1.0, "suite_exact": 0.5}, {"loss": 0.3, "exact": 0.2, "suite_exact": 0.6}]
    assert min(looks, key=_rank) == looks[1]


def test_what_is_told_of_a_long_run_fits_into_an_event() -> None:
    look = {f"refused_slice_number_{n}": 0.123456789 * n for n in range(100)}
    history = [look | {"step": float(n)} for n in range(3000)]
    found = told(history, 1200)
    assert len(json.dumps(found)) < DATA_BYTES
    assert (found["chosen_step"], found["compared"], found["looks"][0]["step"]) == (1200, 2999, 0)


def test_a_limit_without_a_suite_is_refused() -> None:
    with pytest.raises(ValueError, match="worse is of a suite"):
        Validation(worse=0.1)
    assert set(Validation().model_dump()) == {"rows", "every", "patience", "answers", "max_new_tokens", "refusals"}
