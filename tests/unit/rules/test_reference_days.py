"""Which days of a route its meters compare, whatever is promoted meanwhile."""

from __future__ import annotations

import pytest

from loradeck.rules.clocks import DAY_MS
from loradeck.rules.quality.reference_days import REFERENCE_DAYS, Stay, Window, answered, asked

NOON_MS = DAY_MS // 2


def stays(*moves: tuple[int, str]) -> list[Stay]:
    return [Stay(release, day * DAY_MS + NOON_MS) for day, release in moves]


def begins(moves: list[Stay], today: int, *, rows: int | None = None, kept: int = 0) -> int:
    """The first day of the reference, where every day counts that is kept."""
    window = asked(moves, None if rows is None else rows * DAY_MS, today * DAY_MS)
    return window.live([day for day in range(kept, today) if window.has(day)]).start


FORTNIGHTS = stays(*((14 * number, f"v{number}") for number in range(7)))


def test_who_promotes_every_fortnight_compares_with_the_first_days_of_the_route() -> None:
    window = asked(FORTNIGHTS, None, 91 * DAY_MS)
    assert window.live(range(1, 91)) == range(1, 91)
    assert answered(FORTNIGHTS, 91 * DAY_MS).spans == (range(85, 91),)


def test_rows_that_came_in_later_move_the_reference_to_the_days_before_them() -> None:
    assert begins(FORTNIGHTS, 91, rows=80) == 80 - REFERENCE_DAYS
    moves = stays((0, "v1"), (84, "v2"))
    assert begins(moves, 91, rows=10) == 1, "fourteen days before them are not there"
    assert begins(moves, 91, rows=-100) == 1, "they came in before the route was"


def test_a_rewind_gives_the_reference_of_the_release_that_is_live_again() -> None:
    moves = stays((0, "v1"), (84, "v2"))
    assert begins(moves, 91, rows=80) == 80 - REFERENCE_DAYS
    assert begins([*moves, *stays((86, "v1"))], 91, rows=-100) == 1


def test_rows_that_were_entered_after_the_release_became_live_had_come_in_before() -> None:
    assert begins(stays((0, "v1"), (40, "v2")), 91, rows=80) == 41 - REFERENCE_DAYS


def test_days_of_long_before_the_rows_are_no_reference() -> None:
    window = asked(stays((0, "v1"), (84, "v2")), 80 * DAY_MS, 91 * DAY_MS)
    assert window.live([*range(1, 66), *range(82, 91)]).start == 1
    assert window.live([*range(1, 67), *range(82, 91)]).start == 67 - REFERENCE_DAYS


@pytest.mark.parametrize(("kept", "start"), [(14, 1), (15, 15), (28, 15), (29, 29), (85, 85), (90, 85)])
def test_where_the_first_days_are_kept_no_more_the_next_move_is_followed(kept: int, start: int) -> None:
    assert begins(FORTNIGHTS, 91, kept=kept) == start


def test_a_route_without_any_first_days_begins_with_the_first_move() -> None:
    assert begins(stays((0, "v1")), 91, kept=15) == 1
    assert Window((range(1, 91),)).live([]) == range(1, 91)


def test_what_a_release_answers_is_looked_at_on_the_whole_days_on_which_it_was_live() -> None:
    moves = stays((0, "v1"), (40, "v2"), (42, "v1"), (42, "v3"), (42, "v1"))
    window = answered(moves, 91 * DAY_MS)
    assert window.spans == (range(1, 40), range(43, 42), range(43, 91))
    assert [day for day in (0, 39, 40, 41, 42, 43, 90, 91) if window.has(day)] == [39, 43, 90]
    assert window.live([*range(1, 40), *range(43, 91)]) == range(1, 91)


def test_a_release_that_served_elsewhere_has_first_days_there() -> None:
    window = asked(stays((40, "v1"), (84, "v2")), 80 * DAY_MS, 91 * DAY_MS).after_days_elsewhere(60)
    assert (window.live(range(60, 91)).start, window.rows) == (60, 60)
    assert [window.has(day) for day in (40, 41)] == [False, True], "no day is in it for having been elsewhere"
