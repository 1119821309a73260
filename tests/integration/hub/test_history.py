"""A route's requests by the minute: they are in the answer before and after they are written, and outlive the hub."""

from __future__ import annotations

from pathlib import Path

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, running
from tests.fleets.waiting import until

from loradeck.client.history import in_steps
from loradeck.hub.links.saved_nodes import ROWS, PendingMinutes
from loradeck.schemas.counts import NO_COUNTS, Counts, RouteHistory
from loradeck.store.interface import Served

HISTORY = "tenants/acme/routes/production/history"


async def answered(deck: Deck) -> Counts:
    """The sum of what the hub knows by the minute."""
    found = RouteHistory.model_validate(await deck.ok("GET", HISTORY))
    return sum(found.minutes.values(), NO_COUNTS)


async def test_requests_are_there_by_the_minute_before_they_are_written_after_and_with_the_next_hub(data: Path) -> None:
    served = Counts.over(finished=20, checked=20, bad=3)
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        release = await deck.release()
        await deck.promote(release)
        figures = dict.fromkeys(("attempted", "admitted", "finished", "checked"), 20)
        await agent.report(agent.served().model_copy(update=figures | {"bad": 3}))
        await until(lambda: deck.hub.counts.live_total(("acme", "production"), 1, release).bad, "the report is counted")
        await deck.hub.flush()
        assert await answered(deck) == served
        await deck.hub.saved_state.write_minutes(all_of_them=True)
        assert len(deck.hub.saved_state.minutes) == 0
        assert await answered(deck) == served
        await agent.leave()
    async with running(data) as deck:
        assert await answered(deck) == served


async def test_what_runs_is_written_where_the_hub_ends(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        one = Served(tenant="acme", route="production", release="a" * 64, counts=Counts.over(finished=7))
        deck.hub.saved_state.minutes.add([one], deck.hub.clock.now_ms() // 60_000)
    async with running(data) as deck:
        assert (await answered(deck)).finished == 7


async def test_beyond_a_week_there_are_hours_each_under_its_first_minute(deck: Deck) -> None:
    await deck.tenant()
    hour, one = deck.hub.clock.now_ms() // 3_600_000, Counts.over(finished=5, checked=5, bad=1)
    for back in (0, 200, 9000):
        served = [Served(tenant="acme", route="production", release="a" * 64, counts=one)]
        await deck.hub.store(lambda s, at=hour - back, served=served: s.add_served(served, at))
    params = {"minutes": 60 * 9600}
    found = RouteHistory.model_validate((await deck.local.get(HISTORY, params=params)).json())
    assert (found.each, found.minutes) == (60, {60 * (hour - back): one for back in (9000, 200, 0)})
    month = [step for step in in_steps(found, 18) if step.counts]
    assert [step.counts for step in month] == [one, one]  # the hour that runs is not over
    assert all(step.minutes % 60 == 0 for step in month)
    week = RouteHistory.model_validate((await deck.local.get(HISTORY, params={"minutes": 10_080})).json())
    assert (week.each, week.minutes) == (1, {})


async def test_a_route_that_does_not_exist_has_no_history_and_none_has_more_than_400_days(deck: Deck) -> None:
    await deck.tenant()
    assert (await deck.local.get("tenants/nobody/routes/production/history")).status_code == 404
    assert (await deck.local.get(HISTORY, params={"minutes": 576_001})).status_code == 422


def test_a_few_rows_are_written_at_once_of_minutes_that_are_over() -> None:
    pending = PendingMinutes()
    many = [
        Served(tenant=f"t{n}", route="production", release="a" * 64, counts=Counts.over(finished=1))
        for n in range(ROWS + 5)
    ]
    pending.add(many, 10)
    pending.add(many[:3], 11)
    first = pending.take(11)
    assert [(minute, len(rows)) for minute, rows in first.items()] == [(10, ROWS)]
    assert [len(rows) for rows in pending.take(11).values()] == [5]
    assert pending.take(11) == {}
    pending.give_back(first)
    pending.add(many[:1], 10)
    assert pending.of(("t0", "production")) == {10: Counts.over(finished=2), 11: Counts.over(finished=1)}
    assert [len(rows) for rows in pending.take(12).values()] == [ROWS]
