"""What is usual on a route is taken from its own history, once there is enough of it."""

from __future__ import annotations

from tests.fleets.linked.hub import Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.rules.clocks import HOUR_MS, MINUTE_MS
from loradeck.schemas.counts import Counts
from loradeck.store.interface import HOURS_KEPT, Served
from loradeck.store.sql_log import Store

ACME = ("acme", "production")


async def test_a_route_that_always_had_bad_answers_is_judged_by_its_own_past_and_a_promise_goes_before(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await join("n1")
    one = await deck.release(seed=1)
    await deck.promote(one)
    usual = deck.hub.usual_shares
    assert usual.of(ACME)[:3] == (0.02, 0.02, None)
    hour = deck.hub.clock.now_ms() // HOUR_MS
    past = Served(
        tenant="acme", route="production", release=one, counts=Counts.over(finished=980, failed=20, checked=500, bad=35)
    )

    def write(store: Store) -> None:
        for ago in range(30):
            store.add_served([past], hour - ago)
        store.add_served([past], hour - HOURS_KEPT)

    await deck.hub.store(write)
    usual._read_in.clear()
    await until(lambda: usual.of(ACME)[:3] == (0.07, 0.02, None), "the history is read")
    assert not usual.overspent(ACME)
    await deck.tenant(objectives={"bad": 0.05})
    assert usual.of(ACME)[:3] == (0.05, 0.02, None)

    # A promise that was broken for days is DRIFT.
    usual._read_in.clear()
    await until(lambda: usual.overspent(ACME), "the history is read again")
    row = deck.hub.rows.tenant(ACME)
    assert ("DRIFT" in row.flags, row.drift) == (True, ("bad 7.0% of 15,000 in three days, 5.0% promised",))

    # One that is broken so far that the month's budget is gone within days pages, by the minutes.
    failing, minute = {ACME: Counts.over(failed=80, finished=20)}, deck.hub.clock.now_ms() // MINUTE_MS
    await deck.hub.store(lambda s: s.add_minutes(minute, failing))
    await deck.tenant(objectives={"errors": 0.05})
    usual._next_round = 0.0
    await until(lambda: usual.burning(ACME), "the minutes are read")
    row = deck.hub.rows.tenant(ACME)
    assert row.burning == ("errors 80.0% of 100 in an hour, 5.0% promised",)
    assert row.burning[0] in row.drift

    # What is too old goes without another request.
    kept = await deck.hub.store(lambda s: s.hours(*ACME, since=0))
    assert len(kept) == 30
