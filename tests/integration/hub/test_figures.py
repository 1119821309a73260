"""Figures of one incident wherever a person sees them: they agree, however long a release was good before."""

from __future__ import annotations

import pytest
from tests.fleets.linked.hub import Deck, Time
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_flags import ACME, acmes_third, cause, fleet, nobody

from loradeck.rules.quality.notices import Subject, conditions
from loradeck.schemas.counts import RouteHistory
from loradeck.schemas.flag import FlagCause
from loradeck.schemas.notice import NoticeKind

WEEK = 7 * 86_400 * 40
"""Units of a week at forty a second, on each of two nodes."""

INCIDENT_S = 20 * 60

SHARE = 7 / 20
"""Every third of twenty callers gets bad answers: the first, the fourth, and so on."""


@pytest.mark.timeout(600)
async def test_after_twenty_minutes_of_bad_answers_after_a_good_week_all_places_say_the_same(
    deck: Deck, join: Join, time: Time
) -> None:
    routers, _, _ = await fleet(deck, join, time)
    await routers.seconds(1, nobody, units=WEEK)
    await routers.seconds(70, nobody)
    began_ms = deck.hub.clock.now_ms()
    for _ in range(INCIDENT_S // 10):
        await routers.seconds(10, acmes_third)
        await deck.hub.flush()  # as it does by itself, by a clock that the test does not set
    await until(lambda: cause(deck) is FlagCause.RELEASE, "the release is named")
    row = await deck.row()
    assert "BAD" in row.flags
    assert row.bad_now == pytest.approx(SHARE, abs=0.01), "the row"
    assert row.cause.verdict == "release", "the change came right after the move"
    assert row.cause.live.bad_share == pytest.approx(SHARE, abs=0.01), "CAUSE"
    for replica, counts in row.cause.by_replica.items():
        assert counts.bad_share == pytest.approx(SHARE, abs=0.01), replica
    assert row.cause.others is not None
    assert row.cause.others.bad_share == 0
    now_ms = deck.hub.clock.now_ms()
    since_s = (now_ms - row.cause.since_ms) / 1000
    # The hub's clock goes on while the test runs, too: some seconds have no units.
    assert 0.6 < row.cause.live.checked / (80 * since_s) < 1.02, "as many as there were since then"
    assert since_s == pytest.approx(595, abs=6), "ten minutes are kept"
    assert row.cause.bad_since_ms == pytest.approx(began_ms, abs=3_000), "and since when it is so"
    (flag,) = [flag for key, flag in deck.hub.flags.now.items() if key == ACME]
    assert flag.units[0] / flag.units[1] == pytest.approx(SHARE, abs=0.01), "the flag"
    history = RouteHistory.model_validate(await deck.ok("GET", "tenants/acme/routes/production/history?minutes=15"))
    shares = [counts.bad_share for counts in history.minutes.values() if counts.checked > 4000]
    assert len(shares) >= 10
    assert shares == pytest.approx([SHARE] * len(shares), abs=0.01), "TREND"
    words = conditions(row)[Subject(NoticeKind.BREACH, *ACME)]
    assert "the release" in words
