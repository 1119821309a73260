"""The last minute: what is in it to the second, what a late report adds to it, and the time to first token."""

from __future__ import annotations

import pytest

from loradeck.hub.progress.windows import BUCKETS, WINDOW_S, Recent, Slice, Window
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.link import TTFT_BUCKETS_MS

ONE = Counts(1, 1, 1, 1)


def test_a_slice_counts_for_exactly_a_minute() -> None:
    window = Window()
    window.put(Slice(100.0, ONE))
    window.put(Slice(110.0, Counts(2, 0, 2, 0)))
    assert window.sum(100.0 + WINDOW_S) == Counts(3, 1, 3, 1)
    assert window.sum(100.001 + WINDOW_S) == Counts(2, 0, 2, 0)
    assert len(window.slices) == 1
    assert window.sum(111.0 + WINDOW_S) == NO_COUNTS
    assert window.slices == []


def test_slices_of_one_second_are_merged_with_their_times_to_first_token() -> None:
    window = Window()
    window.put(Slice(100.0, ONE, (1, 2)))
    window.put(Slice(100.9, ONE, (1, 0, 5)))
    window.put(Slice(101.0, ONE, (7,)))
    assert [(one.at, one.counts, one.ttft) for one in window.slices] == [
        (100.0, Counts(2, 2, 2, 2), (2, 2, 5)),
        (101.0, ONE, (7,)),
    ]
    recent = window.recent(101.0, 30.0)
    assert (recent.counts, recent.seconds, recent.ttft[:4]) == (Counts(3, 3, 3, 3), 30.0, [9, 2, 5, 0])


def test_adding_drops_what_is_older_than_the_window() -> None:
    window = Window()
    window.put(Slice(100.0, ONE))
    window.put(Slice(100.5 + WINDOW_S, ONE))
    assert len(window.slices) == 1
    assert window.sum(100.5 + WINDOW_S) == ONE


def test_of_a_report_over_more_than_a_minute_a_minutes_part_counts() -> None:
    whole = Slice(700.0, Counts(1200, 30, 600, 60), (10, 20))
    assert whole.within(WINDOW_S) is whole
    part = whole.within(10 * WINDOW_S)
    assert (part.at, part.counts, part.ttft) == (700.0, Counts(120, 3, 60, 6), (1, 2))


def test_rounding_makes_no_more_errors_than_requests_and_no_more_bad_than_checked() -> None:
    part = Slice(700.0, Counts(1, 3, 1, 3)).within(2 * WINDOW_S)
    assert part.counts == Counts(0, 0, 0, 0)


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
