"""A process that did not run, and a wall clock that was set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradeck.hub.log.clock import AwakeClock
from loradeck.rules import clocks

GAPS = st.lists(st.floats(0, 3600, allow_nan=False), max_size=30)


@given(GAPS)
def test_a_clock_that_is_looked_at_in_time_loses_nothing_and_a_pause_passes_in_no_time(gaps: list[float]) -> None:
    now = 0.0
    clock = AwakeClock(lambda: now)
    shown = clock()
    for gap in gaps:
        now += gap
        after = clock()
        assert after - shown <= clocks.PAUSE_S + 1e-6
        if gap <= clocks.PAUSE_S:
            assert abs(after - shown - gap) < 1e-6
        shown = after


@given(st.lists(st.integers(0, 10**13), min_size=1))
def test_stamps_never_go_back_and_are_the_clocks_where_it_goes_forward(clock: list[int]) -> None:
    stamps = [clock[0]]
    for now in clock[1:]:
        stamps.append(clocks.stamp(now, stamps[-1]))
    assert stamps == sorted(stamps)
    assert all(stamp == max(clock[: n + 1]) for n, stamp in enumerate(stamps))


@given(st.integers(-(10**9), 10**9), st.floats(0, 10**6))
def test_a_step_is_what_the_wall_clock_moved_beyond_the_time_that_passed(set_by: int, passed: float) -> None:
    found = clocks.step(round(passed * 1000) + set_by, passed)
    assert found == (set_by if abs(set_by) > clocks.STEP_MS else 0)
