"""Waits between attempts: spread from nothing up to a bound that doubles and is capped."""

from __future__ import annotations

import itertools
import random

from loradeck.client.backoff import Backoff


def test_pauses_are_spread_from_nothing_up_to_a_bound_that_doubles() -> None:
    backoff = Backoff(0.5, 15.0)
    for failures, bound in ((0, 0.5), (1, 1.0), (3, 4.0), (10, 15.0), (1000, 15.0)):
        pauses = [backoff.pause(failures) for _ in range(500)]
        assert 0 <= min(pauses) < bound / 4
        assert bound * 3 / 4 < max(pauses) <= bound


def test_waits_are_jittered_and_capped() -> None:
    waits = Backoff(0.2, 5.0, random.Random(7).uniform).pauses()
    drawn = list(itertools.islice(waits, 200))
    for number, wait in enumerate(drawn):
        assert 0 <= wait <= min(5.0, 0.2 * 2**number)
    assert max(drawn) > 4.5
    assert len(set(drawn)) == 200
