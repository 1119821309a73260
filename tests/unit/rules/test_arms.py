"""Which of two releases answers a request while a candidate is out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.serving.arms import LIVE_UNEXPOSED, PLACES, Arm, arm, lease_is_over, place, seat
from loradeck.schemas.counts import BINS
from loradeck.schemas.table import Split

SPLIT = Split(generation=4, permille=100, salt="5a1c02b7")
CANDIDATE, CONTROL = Arm(candidate=True, exposed=True), Arm(candidate=False, exposed=True)
keys = st.text(min_size=1, max_size=40)
shares = st.integers(0, 1000)


def split(**changes: object) -> Split:
    return SPLIT.model_copy(update=changes)


@given(key=keys, narrow=shares, wide=shares, steps=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_a_wider_share_takes_no_key_out_whatever_the_steps(
    key: str, narrow: int, wide: int, steps: tuple[int, int]
) -> None:
    narrow, wide = sorted((narrow, wide))
    before = arm(split(permille=narrow, step=steps[0]), key, ready=True, hub_lost_s=None)
    after = arm(split(permille=wide, step=steps[1]), key, ready=True, hub_lost_s=None)
    assert after.candidate or not before.candidate


@given(key=keys)
def test_a_share_of_nothing_gives_it_to_nobody_and_of_everything_to_everybody(key: str) -> None:
    assert arm(split(permille=0), key, ready=True, hub_lost_s=None) == CONTROL
    assert arm(split(permille=PLACES), key, ready=True, hub_lost_s=None) == CANDIDATE


def test_the_keys_spread_evenly_and_another_salt_takes_others() -> None:
    keys = [f"caller-{i}" for i in range(20_000)]
    first = {key for key in keys if place("5a1c02b7", key) < 100}
    second = {key for key in keys if place("99999999", key) < 100}
    assert 1_850 < len(first) < 2_150  # within five deviations of a tenth
    assert len(first & second) < 300  # a tenth of a tenth, not the same ones


def test_a_key_keeps_its_place_in_every_version() -> None:
    assert [place("5a1c02b7", key) for key in ("acme-1", "acme-2", "über")] == [424, 664, 462]


@given(key=st.none() | keys, share=shares, lost=st.none() | st.floats(0, 1e6), ready=st.booleans())
def test_a_candidate_answers_only_a_key_where_it_is_ready_and_leased(
    key: str | None, share: int, lost: float | None, ready: bool
) -> None:
    found = arm(split(permille=share), key, ready=ready, hub_lost_s=lost)
    fit = key is not None and ready and (lost is None or lost < SPLIT.lease_s)
    assert found.exposed == fit
    assert fit or found == LIVE_UNEXPOSED


@pytest.mark.parametrize(
    ("lost", "candidate"), [(None, True), (0.0, True), (299.9, True), (300.0, False), (1e9, False)]
)
def test_without_a_hub_a_share_ends_with_its_lease(lost: float | None, candidate: bool) -> None:
    assert arm(split(permille=PLACES), "k", ready=True, hub_lost_s=lost).candidate is candidate
    assert lease_is_over(SPLIT, lost) is not candidate


def test_named_keys_get_it_at_any_share_and_a_shadow_answers_nobody() -> None:
    assert arm(split(permille=0, named=("k",)), "k", ready=True, hub_lost_s=None) == CANDIDATE
    assert arm(split(permille=PLACES, shadow=True), "k", ready=True, hub_lost_s=None) == LIVE_UNEXPOSED
    assert arm(None, "k", ready=True, hub_lost_s=None) == LIVE_UNEXPOSED


def test_keys_of_every_share_are_spread_over_all_bins() -> None:
    seats = [seat("a salt", f"user {n}") for n in range(20_000)]
    assert seats == [seat("a salt", f"user {n}") for n in range(20_000)]
    small = Counter(bin_ for place_, bin_ in seats if place_ < 50)
    assert set(small) == set(range(BINS))
    assert max(small.values()) < 4 * min(small.values()) + 8, "a bin is no part of a share"
