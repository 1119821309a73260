"""Whether weights are worth it, by what was measured on the same items."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.rules.quality.decision import cost, decide, gained, p95, share
from loradeck.schemas.decision import ArmFigures, Prices

ITEMS = [f"i{n}" for n in range(200)]


def arm(name: str, right: int, *, weights: bool = False, contexts: bool = False, **more: Any) -> ArmFigures:
    scored = share([n < right for n in range(len(ITEMS))])
    told = {"release": "a" * 64, "label": name, "arm": "b" * 64, "contexts": contexts, "tokens_in": 10, "tokens_out": 5}
    told |= {"p95_ms": p95([100.0] * 50), "engine": "embedded", "cost": 1.0, "rows": 5000 if weights else 0}
    return ArmFigures.model_validate({"name": name, "weights": weights, "right": scored, **told, **more})


def first(n: int) -> dict[str, bool]:
    return {item: at < n for at, item in enumerate(ITEMS)}


def test_weights_that_surely_win_in_pairs_are_worth_it() -> None:
    arms = [arm("prompt", 120), arm("adapter", 160, weights=True)]
    said = decide(arms, {"prompt": first(120), "adapter": first(160)}, (), 50_000)
    assert (said.weights, said.choice) == (True, "adapter")
    assert said.gain is not None
    assert said.gain.low > 0
    assert said.reasons[0].startswith("adapter wins 20.0% (14.5% to 25.5%, n = 200) of the items over prompt")


def test_the_best_of_many_has_to_win_more_surely_than_one_alone() -> None:
    right = {"prompt": first(120), "adapter": first(131) | {ITEMS[0]: False, ITEMS[1]: False}}
    arms = [arm("prompt", 120), arm("adapter", 129, weights=True)]
    assert decide(arms, right, (), 50_000).weights
    others = [f"other-{n}" for n in range(20)]
    arms += [arm(name, 100, weights=True) for name in others]
    assert not decide(arms, right | dict.fromkeys(others, first(100)), (), 50_000).weights


def test_a_prompt_that_scores_as_much_is_the_answer() -> None:
    arms = [arm("prompt", 120), arm("shots", 158), arm("adapter", 160, weights=True)]
    said = decide(arms, {"prompt": first(120), "shots": first(158), "adapter": first(160)}, (), 50_000)
    assert (said.weights, said.choice) == (False, "shots")
    assert any("do not surely win any" in why for why in said.against)


def test_a_one_off_is_no_reason_to_train() -> None:
    arms = [arm("prompt", 120), arm("adapter", 160, weights=True)]
    said = decide(arms, {"prompt": first(120), "adapter": first(160)}, (), 300)
    assert (said.weights, said.choice) == (False, "prompt")
    assert any("one-off" in why for why in said.against)


def test_truths_that_have_changed_belong_into_retrieval_though_weights_win_elsewhere() -> None:
    changed = ITEMS[:40]
    weights = {item: item not in changed for item in ITEMS}
    retrieved = {item: item in changed or at < 120 for at, item in enumerate(ITEMS)}
    arms = [arm("retrieval", 120, contexts=True), arm("adapter", 160, weights=True)]
    said = decide(arms, {"retrieval": retrieved, "adapter": weights}, changed, 50_000)
    assert (said.weights, said.choice) == (False, "retrieval")
    told = "of the truths that have changed retrieval wins 100.0% (82.4% to 100.0%, n = 40)"
    assert any(told in why for why in said.against)


def test_few_verified_rows_are_said_against_weights_and_forbid_nothing() -> None:
    arms = [arm("prompt", 120), arm("adapter", 160, weights=True, rows=300)]
    said = decide(arms, {"prompt": first(120), "adapter": first(160)}, (), 50_000)
    assert said.weights
    assert any("300 rows by people" in why for why in said.against)


def test_without_weights_nothing_is_said_for_them() -> None:
    said = decide([arm("prompt", 120), arm("shots", 130)], {"prompt": first(120), "shots": first(130)}, (), 50_000)
    assert (said.weights, said.choice, said.gain) == (False, "shots", None)


def test_a_gain_is_of_the_items_that_both_have() -> None:
    found = gained({"a": True, "b": True, "c": True}, {"a": True, "b": False})
    assert found is not None
    assert (found.mean, found.n) == (0.5, 2)
    assert gained({"a": True}, {}) is None


def test_requests_cost_their_tokens_or_their_time_and_a_part_of_training_and_storage() -> None:
    by_time = Prices(gpu_hour=3.6, gb_month=0.1)
    assert cost(by_time, 1000, tokens=(9, 9), seconds=1.0, hours=0, gb=0) == pytest.approx(1.0)
    assert cost(by_time, 1000, tokens=(9, 9), seconds=0, hours=2, gb=10) == pytest.approx(7.2 + 1.0)
    by_tokens = Prices(gpu_hour=3.6, token_in_million=1, token_out_million=2)
    assert cost(by_tokens, 1000, tokens=(500, 250), seconds=9, hours=0, gb=0) == pytest.approx(1.0)
