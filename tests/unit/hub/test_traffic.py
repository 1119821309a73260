"""What the routers' counters say of the last minute."""

from __future__ import annotations

import pytest

from loradeck.hub.traffic import Counts
from loradeck.schemas.link import Traffic

KEY = ("acme", "production")
RELEASE = "a" * 64


def counted(finished: int, bad: int = 0) -> Traffic:
    return Traffic(
        tenant=KEY[0],
        route=KEY[1],
        generation=1,
        release=RELEASE,
        replica="gpu-01",
        finished=finished,
        checked=finished,
        bad=bad,
    )


def test_what_a_router_counted_without_a_link_counts_in_full_and_is_no_burst_of_the_last_minute() -> None:
    counts = Counts((), {}, started=0.0)
    counts.report("gpu-01", "r1", [counted(0)], now=100.0)
    counts.report("gpu-01", "r1", [counted(1200, bad=600)], now=700.0)  # ten minutes at two a second
    recent = counts.recent(KEY, RELEASE, 700.0)
    assert recent.finished / recent.seconds == pytest.approx(2.0)
    assert recent.bad / recent.checked == pytest.approx(0.5)
    others = counts.others(("bolt", "production"), ["gpu-01"], 700.0)
    assert others.requests == recent.finished
    assert counts.total(KEY, RELEASE).requests == 1200


def test_a_report_that_is_seconds_late_loses_nothing() -> None:
    counts = Counts((), {}, started=0.0)
    counts.report("gpu-01", "r1", [counted(0)], now=100.0)
    counts.report("gpu-01", "r1", [counted(30)], now=130.0)
    assert counts.recent(KEY, RELEASE, 130.0).finished == 30
