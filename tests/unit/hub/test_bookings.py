"""Outcomes are added to the second in which their requests were attempted, and every second adds up."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.hub.progress.windows import WINDOW_S, Bookings
from loradeck.schemas.counts import Counts, Traffic

KEY = ("acme", "production")
RELEASE = "a" * 64


def test_an_outcome_is_added_to_the_second_of_its_request() -> None:
    bookings = Bookings()
    assert bookings.book(100.2, Counts(attempted=3), 1.0)[0] == [(100.0, Counts(attempted=3))]
    parts, over = bookings.book(105.0, Counts(attempted=2, finished=2, checked=1, bad=1), 1.0)
    assert parts == [(105.0, Counts(attempted=2)), (100.0, Counts(finished=2, checked=1, bad=1))]
    assert over == Counts.over(finished=2, checked=1, bad=1)


def test_a_failure_is_taken_to_be_one_of_the_newest_and_a_stuck_answer_hides_none() -> None:
    bookings = Bookings()
    bookings.book(100.0, Counts(attempted=100), 1.0)  # long answers
    parts, _ = bookings.book(170.0, Counts(attempted=40, failed=40), 1.0)
    assert parts == [(170.0, Counts.over(failed=40))]


def test_what_was_attempted_before_the_last_minute_leaves_it_also_where_it_ends_now() -> None:
    bookings = Bookings()
    bookings.book(100.0, Counts(attempted=3), 1.0)
    parts, over = bookings.book(101.0 + WINDOW_S, Counts(finished=3), 1.0)
    assert (parts, over) == ([], Counts.over(finished=3))


def test_what_was_under_way_when_the_hub_started_ends_without_having_been_attempted_twice() -> None:
    bookings = Bookings(in_flight=2)
    parts, over = bookings.book(100.0, Counts(attempted=1, finished=3, checked=3), 1.0)
    assert parts == [(100.0, Counts.over(finished=1, checked=1))]
    assert over == Counts.over(finished=3, checked=3)


def test_a_request_that_was_in_flight_and_is_then_refused_leaves_the_second_in_which_it_was_attempted() -> None:
    """A move cut it before its answer began, and nothing was ready for it then: the router counts it as refused."""
    bookings = Bookings(in_flight=1)
    bookings.book(100.0, Counts(attempted=2), 1.0)
    parts, over = bookings.book(101.0, Counts(attempted=1, refused=4), 1.0)
    assert parts == [(101.0, Counts(1, 1)), (100.0, Counts(0, 2))]
    assert over == Counts.over(refused=4)
    assert bookings.book(102.0, Counts(finished=1), 1.0) == ([], Counts())


def test_of_a_report_over_more_than_a_minute_a_minutes_part_counts() -> None:
    growth = Counts(attempted=1275, refused=40, failed=30, finished=1200, checked=600, bad=60)
    parts, over = Bookings().book(700.0, growth, 10 * WINDOW_S)
    assert parts == [(700.0, Counts(attempted=132, refused=4, failed=3, finished=120, checked=60, bad=6))]
    assert over == growth.without_in_flight()


def test_rounding_makes_counts_that_add_up() -> None:
    part = Counts.over(failed=3, finished=1, checked=1, bad=1).scaled(0.5)
    assert part == Counts.over(failed=2)
    assert part.adds_up


@st.composite
def router_lives(draw: st.DrawFn) -> list[tuple[float, Counts, str]]:
    """Readings of one counter, (seconds later, counts, boot), as a router may send them."""
    read, lives, boot = Counts(), [], 1
    for _ in range(draw(st.integers(1, 25))):
        if draw(st.integers(0, 9)) == 0:
            read, boot = Counts(), boot + 1
        new, refused = draw(st.integers(0, 20)), draw(st.integers(0, 5))
        back = draw(st.integers(0, read.in_flight))
        ends = draw(st.integers(0, read.in_flight + new - back))
        failed = draw(st.integers(0, ends))
        finished = ends - failed
        checked = draw(st.integers(0, read.finished + finished - read.checked))
        bad = draw(st.integers(0, checked))
        read += Counts(new + refused, refused + back, failed, finished, checked, bad)
        later = draw(st.sampled_from([0.0, 0.9, 1.0, 1.3, 7.0, 31.0, 59.9, 60.0, 61.0, 200.0]))
        lives.append((later, read, f"r{boot}"))
    return lives


@given(router_lives(), router_lives(), st.booleans())
@example([(0.0, Counts(), "r1"), (0.0, Counts(), "r1")], [(0.0, Counts(1), "r1"), (0.0, Counts(1, 1), "r1")], False)
def test_whatever_routers_report_every_window_and_total_adds_up(
    ours: list[tuple[float, Counts, str]], theirs: list[tuple[float, Counts, str]], known: bool
) -> None:
    counts = RequestCounts((), {"n1": "r1"} if known else {}, started=0.0)
    now, bolt = 100.0, [reading for _, reading, _ in theirs]
    for number, (later, read, boot) in enumerate(ours):
        now += later
        other = bolt[min(number, len(bolt) - 1)]
        counts.report("n1", boot, [row("acme", read), row("bolt", other)], now)
        for at in (now, now + 0.5, now + 30.2):
            recent = counts.recent(KEY, 1, RELEASE, at).counts
            assert recent.adds_up, recent
            assert counts.others(KEY, ["n1"], at).adds_up
            now = at
        total, live = counts.total(KEY, RELEASE).counts, counts.live_total(KEY, 1, RELEASE)
        assert total.adds_up, total
        assert total.in_flight == 0
        assert live.adds_up
        assert live.finished >= total.finished


def row(tenant: str, counts: Counts) -> Traffic:
    return Traffic(
        tenant=tenant,
        route="production",
        generation=1,
        release=RELEASE,
        replica="n1",
        attempted=counts.attempted,
        refused=counts.refused,
        admitted=counts.admitted,
        errors=counts.failed,
        finished=counts.finished,
        checked=counts.checked,
        bad=counts.bad,
    )
