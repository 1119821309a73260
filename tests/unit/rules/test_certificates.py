"""What certificates may do, at any time of their lives and after."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.certificates import BACKDATED_MS, LIFETIME_MS, May, Renewal, Validity, may, renewal
from loradeck.rules.clocks import DAY_MS

times = st.integers(0, 2**45)
flags = st.booleans()


@given(times)
def test_a_certificate_counts_for_ninety_days_and_for_a_day_before(now: int) -> None:
    made = Validity.beginning(now)
    assert (made.until_ms - now, now - made.from_ms) == (90 * DAY_MS, DAY_MS) == (LIFETIME_MS, BACKDATED_MS)


@given(times)
def test_it_is_renewed_with_two_thirds_of_its_life_left(now: int) -> None:
    made = Validity.beginning(now)
    life = made.until_ms - made.from_ms
    assert now < made.renew_ms < made.until_ms
    assert life * 2 // 3 <= made.until_ms - made.renew_ms <= life * 2 // 3 + 1


@given(times, times, flags)
def test_a_revoked_key_may_do_nothing_whenever_it_was_made(made: int, now: int, bound: bool) -> None:
    assert may(Validity.beginning(made), now, bound=bound, revoked=True) is May.NOTHING


@given(times, st.integers(-(2**40), LIFETIME_MS), flags)
def test_until_it_expires_it_links_also_at_a_hub_that_was_restored(made: int, later: int, bound: bool) -> None:
    assert may(Validity.beginning(made), made + later, bound=bound, revoked=False) is May.LINK


@given(times, st.integers(1, 2**45))
def test_an_expired_one_only_renews_and_only_if_its_key_is_on_record(made: int, late: int) -> None:
    old, now = Validity.beginning(made), made + LIFETIME_MS + late
    assert may(old, now, bound=True, revoked=False) is May.RENEW
    assert may(old, now, bound=False, revoked=False) is May.NOTHING


@given(made=st.integers(200 * DAY_MS, 2**45), off=st.integers(31, 400))
def test_a_hub_whose_clock_was_ahead_and_is_right_again_shows_its_certificate_from_before(made: int, off: int) -> None:
    before, then = Validity.beginning(made), Validity.beginning(made + off * DAY_MS)
    for now in range(made, made + 30 * DAY_MS, 10 * DAY_MS):
        assert renewal(then, before, now) is Renewal.EARLIER


@given(made=times, behind=st.integers(2, 10_000))
def test_a_hub_whose_clock_is_behind_makes_no_certificate_that_is_over_for_everybody_else(
    made: int, behind: int
) -> None:
    shown = Validity.beginning(made)
    assert renewal(shown, None, made - behind * DAY_MS) is Renewal.KEEP
    earlier = Validity.beginning(made - 30 * DAY_MS)
    assert renewal(shown, earlier, made - behind * DAY_MS) is not Renewal.NEW


@given(made=times, days=st.integers(0, 1000))
def test_a_certificate_that_counts_is_renewed_when_it_is_due_whatever_was_before_it(made: int, days: int) -> None:
    shown, now = Validity.beginning(made), made + days * DAY_MS
    due = Renewal.NEW if now >= shown.renew_ms else Renewal.KEEP
    assert renewal(shown, None, now) is renewal(shown, Validity.beginning(made - DAY_MS), now) is due
