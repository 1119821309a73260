"""Rate limits: nobody gets more than a minute's amount ahead, and waiting as long as was said is enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.serving.rate_limits import Bucket, take

MINUTE = 60.0
asked = st.lists(st.tuples(st.floats(0, 120), st.integers(1, 50)), max_size=60)


@given(asked, st.integers(1, 100))
def test_what_is_taken_never_passes_what_was_allowed_so_far(asked: list[tuple[float, int]], per_minute: int) -> None:
    bucket: Bucket | None = None
    now, taken = 0.0, 0.0
    for pause, amount in asked:
        now += pause
        before = taken
        bucket, wait = take(bucket, amount, per_minute, now)
        if wait == 0:
            taken += amount
            # The amount that goes over is one that a whole minute does not hold, and it was the last for a while.
            assert before + min(amount, per_minute) <= per_minute + now * per_minute / MINUTE + 1e-6


@given(asked, st.integers(1, 100), st.integers(1, 200))
def test_who_waits_as_long_as_was_said_is_served(asked: list[tuple[float, int]], per_minute: int, wanted: int) -> None:
    bucket: Bucket | None = None
    now = 0.0
    for pause, amount in asked:
        now += pause
        bucket, _ = take(bucket, amount, per_minute, now)
    bucket, wait = take(bucket, wanted, per_minute, now)
    if wait:
        assert take(bucket, wanted, per_minute, now + wait * (1 + 1e-9) + 1e-6)[1] == 0


def test_a_refusal_takes_nothing() -> None:
    bucket, wait = take(None, 6, 10, 0.0)
    assert wait == 0
    refused, wait = take(bucket, 6, 10, 0.0)
    assert (refused.level, wait) == (4, pytest.approx(12.0))
