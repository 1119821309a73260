"""What `make recipes` fails by."""

from __future__ import annotations

from recipes.measure import Result, Score, missed


def result(before: float, after: float, seconds: float) -> Result:
    scores = {"before": Score(before, 40, 0.4), "after": Score(after, 40, 0.4)}
    return Result(name="", **scores, steps=36, seconds=seconds, peak_memory=1, size=1)


def test_a_recipe_that_gains_too_little_or_takes_too_long_is_named() -> None:
    results = {"good": result(0.0, 0.98, 109), "dull": result(0.5, 0.6, 50), "slow": result(0.0, 0.98, 180)}
    assert missed(results) == ["dull: 50% before and 60% after, 50 s", "slow: 0% before and 98% after, 180 s"]
