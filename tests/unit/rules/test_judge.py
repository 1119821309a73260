"""When a judge is asked, and which replies are verdicts."""

from __future__ import annotations

import pytest

from loradeck.rules.quality.judge import MINUTE_S, may_judge, verdict_of


@pytest.mark.parametrize(
    ("draw", "asked", "may"),
    [
        (0.049, (), True),
        (0.05, (), False),
        (0.0, (100.0 - MINUTE_S,), True),
        (0.0, (100.0 - MINUTE_S + 1,), True),
        (0.0, (99.0, 100.0 - MINUTE_S + 1), False),
        (0.0, (99.0, 100.0 - MINUTE_S), True),
    ],
)
def test_it_is_asked_of_a_share_within_its_budget_of_a_minute(draw: float, asked: tuple[float, ...], may: bool) -> None:
    assert may_judge(0.05, draw, 2, asked, 100.0) is may


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("PASS", True),
        (" FAIL\n", False),
        ("pass", None),
        ("PASS.", None),
        ("PASS or FAIL", None),
        ("The answer is PASS", None),
        ("", None),
    ],
)
def test_only_the_one_word_is_a_verdict(reply: str, verdict: bool | None) -> None:
    assert verdict_of(reply) is verdict
