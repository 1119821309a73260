"""The last minute: what is in it to the second, what a late report adds to it, and the time to first token."""

from __future__ import annotations

import pytest

from loradeck.hub.progress.windows import BUCKETS, WINDOW_S, Recent, Window
from loradeck.schemas.counts import NO_COUNTS, TTFT_BUCKETS_MS, Counts

ONE = Counts.over(failed=1, finished=1, checked=1, bad=1)
TWO = Counts.over(finished=2, checked=2)


def test_a_slice_counts_for_exactly_a_minute() -> None:
    window = Window()
    window.put(100.0, ONE)
    window.put(110.0, TWO)
    assert window.sum(100.0 + WINDOW_S) == ONE + TWO
    assert window.sum(100.001 + WINDOW_S) == TWO
    assert len(window.slices) == 1
    assert window.sum(111.0 + WINDOW_S) == NO_COUNTS
    assert window.slices == []


def test_slices_of_one_second_are_merged_with_their_times_to_first_token() -> None:
    window = Window()
    window.put(100.0, ONE, (1, 2))
    window.put(100.9, ONE, (1, 0, 5))
    window.put(101.0, ONE, (7,))
    assert [(one.at, one.counts, one.ttft) for one in window.slices] == [
        (100.0, ONE + ONE, (2, 2, 5)),
        (101.0, ONE, (7,)),
    ]
    recent = window.recent(101.0, 30.0)
    assert (recent.counts, recent.seconds, recent.ttft[:4]) == (ONE + ONE + ONE, 30.0, [9, 2, 5, 0])


def test_adding_drops_what_is_older_than_the_window() -> None:
    window = Window()
    window.put(100.0, ONE)
    window.put(100.5 + WINDOW_S, ONE)
    assert len(window.slices) == 1
    assert window.sum(100.5 + WINDOW_S) == ONE


def test_counts_of_a_second_before_the_newest_are_added_there() -> None:
    window = Window()
    window.put(100.9, Counts(attempted=2))
    window.put(103.0, ONE)
    window.put(100.0, Counts(failed=1))
    window.put(101.5, TWO)
    assert [(one.at, one.counts) for one in window.slices] == [
        (100.0, Counts(attempted=2, failed=1)),
        (101.0, TWO),
        (103.0, ONE),
    ]


def test_a_window_takes_no_counts_that_do_not_add_up() -> None:
    with pytest.raises(AssertionError):
        Window().put(100.0, Counts(failed=1))


@pytest.mark.parametrize(
    ("ttft", "bound"),
    [
        ({}, None),
        ({0: 1}, TTFT_BUCKETS_MS[0]),
        ({0: 95, 1: 5}, TTFT_BUCKETS_MS[0]),
        ({0: 94, 1: 6}, TTFT_BUCKETS_MS[1]),
        ({BUCKETS - 1: 1}, TTFT_BUCKETS_MS[-1]),
    ],
)
def test_the_95th_percentile_is_rounded_up_to_the_bound_of_its_bucket(
    ttft: dict[int, int], bound: float | None
) -> None:
    assert Recent(ttft=[ttft.get(n, 0) for n in range(BUCKETS)]).ttft95_ms == bound


def test_an_empty_window_has_no_figures() -> None:
    recent = Window().recent(5.0, 0.0)
    assert (recent.counts, recent.seconds, recent.ttft, recent.ttft95_ms) == (NO_COUNTS, 0.0, [0] * BUCKETS, None)
