"""Freshness at a hub: counts that nodes bring in, by the day, and what the meters say of them."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from tests.fleets.linked.hub import Deck
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_feedback import allow

from loradeck.hub.log.attestations import Facts
from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.counts import CLASSES, LENGTHS, MOST_INPUTS_AT_ONCE, WORDS, Counts
from loradeck.schemas.feedback import Feedback, FeedbackKind
from loradeck.store.interface import Served
from loradeck.store.sql_log import Store

PATH = "tenants/acme/freshness"


def counted(day: int, *, route: str = "production", n: int = 400, bucket: int = 0) -> dict[str, Any]:
    words, lengths, classes = [0] * WORDS, [0] * LENGTHS, [0] * CLASSES
    words[bucket], words[7 + day % 3], lengths[6], classes[0] = n // 2, n // 4 + day % 5, n, n
    return {"route": route, "day": day, "requests": n, "words": words, "lengths": lengths, "classes": classes}


@pytest.fixture
async def release(deck: Deck, join: Join) -> str:
    await join("n1")
    await deck.tenant()
    made = await deck.release()
    await deck.promote(made)
    await allow(deck, 0, input_days=60)
    return made


async def at_day(deck: Deck, monkeypatch: pytest.MonkeyPatch, day: int) -> None:
    monkeypatch.setattr(deck.hub.clock, "now_ms", lambda: day * DAY_MS + 1000)


async def all_clocks_at(deck: Deck, monkeypatch: pytest.MonkeyPatch, day: int) -> None:
    """At a day for what is written down too: events and attestations."""
    await at_day(deck, monkeypatch, day)
    await deck.hub.store(lambda s: s.database._ready().create_function("clock_ms", 0, deck.hub.clock.now_ms))  # type: ignore[attr-defined]


async def meters(deck: Deck) -> dict[str, dict[str, Any]]:
    (one,) = (await deck.ok("GET", PATH))["routes"]
    return {meter["kind"]: meter for meter in one["meters"]} | {"route": one}


async def test_counts_of_nodes_add_up_by_the_day_and_show_a_shift_of_the_inputs(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, today = await deck.as_role("agent", "n1"), deck.hub.clock.now_ms() // DAY_MS
    for day in range(1, 23):
        await at_day(deck, monkeypatch, today + day)
        for _ in range(2):
            body = counted(today + day, bucket=0 if day <= 15 else 500)
            await deck.ok("POST", "tenants/acme/inputs", body, client=node)
    await at_day(deck, monkeypatch, today + 23)
    found = await meters(deck)
    assert found["inputs"]["before"]["of"] == 14 * 800
    assert [found[kind]["signal"] for kind in ("inputs", "terms", "classes")] == [True, True, False]
    assert found["route"]["recommendation"]["remedy"] == "retrieval"
    assert found["route"]["sizing"]["gain"] is None
    assert "words" not in str(found["route"]["sizing"])


async def new_topic(deck: Deck, monkeypatch: pytest.MonkeyPatch, days: range, *, rise: int) -> None:
    """Brings in the counts of days on which so many requests more than the day before are about another topic."""
    node = await deck.as_role("agent", "n1")
    for number, day in enumerate(days):
        await at_day(deck, monkeypatch, day)
        body = counted(day)
        body["words"][900] = 4 + day % 5 + rise * number
        await deck.ok("POST", "tenants/acme/inputs", body, client=node)


async def test_who_promotes_every_fortnight_has_a_signal_of_what_drifts(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = deck.hub.clock.now_ms() // DAY_MS + 1
    for seed, rise in ((2, 0), (3, 0), (4, 8)):
        promoted, found = await deck.release(seed=seed), await meters(deck)
        assert [found[kind]["signal"] for kind in ("inputs", "terms")] == [False, False]
        await new_topic(deck, monkeypatch, range(day, day + 14), rise=rise)
        day += 14
        await all_clocks_at(deck, monkeypatch, day)
        await deck.promote(promoted)
    found = await meters(deck)
    assert [found[kind]["signal"] for kind in ("inputs", "terms")] == [True, True]
    assert found["route"]["release"] == promoted
    pointer, restarted = deck.hub.log.state.pointers["acme", "production"], await deck.hub.store(Facts.load)
    stays = restarted.stays(pointer, day * DAY_MS)
    assert stays == deck.hub.facts.stays(pointer, day * DAY_MS), "a hub that starts again knows the same"
    assert len({stay.release for stay in stays}) == 4


async def test_a_worse_release_is_seen_beside_what_the_route_answered_before_it(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = deck.hub.clock.now_ms() // DAY_MS + 1
    worse = await deck.release(seed=2)
    for span, bad in ((14, 8), (8, 60)):
        for number in range(day, day + span):
            counts = Counts.over(finished=400, checked=400, bad=bad + number % 3)
            served = Served(tenant="acme", route="production", release=worse, seconds=1.0, counts=counts)
            await deck.hub.store(lambda s, served=served, hour=number * 24: s.add_served([served], hour))
        day += span
        await all_clocks_at(deck, monkeypatch, day)
        if span == 14:
            await deck.promote(worse)
    found = await meters(deck)
    assert [found[kind]["signal"] for kind in ("bad", "refused")] == [True, False]
    await deck.rollback()
    assert (await meters(deck))["bad"]["signal"], "a move back does not begin anew either"


async def test_days_go_when_the_policy_keeps_them_no_longer(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, today = await deck.as_role("agent", "n1"), deck.hub.clock.now_ms() // DAY_MS
    await at_day(deck, monkeypatch, today)  # no midnight falls into the test
    for day in (today - 1, today):
        await deck.ok("POST", "tenants/acme/inputs", counted(day), client=node)
    await at_day(deck, monkeypatch, today + 60)
    await deck.hub.input_days.keep()
    assert [one.day for one in deck.hub.store.now(lambda s: s.inputs("acme", "production"))] == [today]
    await allow(deck, 0, input_days=0)
    await deck.hub.input_days.keep()
    assert deck.hub.store.now(lambda s: s.inputs("acme", "production")) == []


async def test_answers_that_are_bad_more_often_than_in_the_first_days_are_a_signal(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = deck.hub.clock.now_ms() // DAY_MS
    for day in range(1, 23):
        counts = Counts.over(finished=400, checked=400, bad=8 + day % 3 if day <= 15 else 60)
        served = Served(tenant="acme", route="production", release=release, seconds=1.0, counts=counts)
        hour = (today + day) * 24 + 5
        await deck.hub.store(lambda s, served=served, hour=hour: s.add_served([served], hour))
    await at_day(deck, monkeypatch, today + 23)
    found = await meters(deck)
    assert found["bad"]["signal"]
    assert found["bad"]["now"]["mean"] == pytest.approx(0.15)
    assert found["route"]["recommendation"]["remedy"] == "prompt"  # what a refresh gains was never measured
    assert found["route"]["sizing"]["items"] == 246  # to bound a loss of five points


async def test_callers_who_correct_are_counted_without_reading_what_they_wrote(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = deck.hub.clock.now_ms() // DAY_MS
    told = {"kind": "correction", "text": "five", "route": "production", "tenant": "acme", "by": "n1", "tied": "ledger"}
    rows = [
        Feedback.model_validate(
            told
            | {"request": f"r-{day}-{n}", "caller": f"{n:04x}", "at_ms": (today + day) * DAY_MS, "received_ms": 1}
            | ({"kind": "thumb", "value": "up", "text": ""} if n >= (2 + day % 3 if day <= 15 else 30) else {})
        )
        for day in range(1, 23)
        for n in range(40)
    ]
    await deck.hub.store(lambda s: s.put_feedback(rows))
    await at_day(deck, monkeypatch, today + 23)
    monkeypatch.setattr(Store, "feedback", None)
    found = await meters(deck)
    assert found["corrected"]["signal"]
    assert found["corrected"]["now"]["mean"] == pytest.approx(0.75)
    assert found["route"]["sizing"]["corrections"] == sum(row.kind is FeedbackKind.CORRECTION for row in rows)


async def test_a_day_that_a_person_entered_is_a_signal_once_it_has_come(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = deck.hub.clock.now_ms() // DAY_MS
    await allow(deck, 0, expected_changes=[{"at_ms": (today + 5) * DAY_MS, "what": "new tax codes"}])
    assert not (await meters(deck))["expected"]["signal"]
    await at_day(deck, monkeypatch, today + 6)
    found = await meters(deck)
    assert found["expected"]["signal"]
    assert found["route"]["recommendation"]["remedy"] == "retrieval"


async def test_nothing_of_a_tenant_is_read_or_brought_in_by_others(deck: Deck, release: str) -> None:
    await deck.ok("POST", "tenants", {"name": "bolt"})
    theirs = await deck.client_of("releaser", "bolt")
    await deck.refused(403, "forbidden", "GET", PATH, client=theirs)
    body = counted(deck.hub.clock.now_ms() // DAY_MS)
    await deck.refused(403, "forbidden", "POST", "tenants/acme/inputs", body)
    other = await deck.as_role("agent", "n2")
    await deck.refused(403, "forbidden", "POST", "tenants/acme/inputs", body, client=other)


async def test_more_than_a_node_counts_in_a_quarter_of_an_hour_is_refused(deck: Deck, release: str) -> None:
    node, today = await deck.as_role("agent", "n1"), deck.hub.clock.now_ms() // DAY_MS
    await deck.ok("POST", "tenants/acme/inputs", counted(today, n=MOST_INPUTS_AT_ONCE), client=node)
    body = counted(today, n=MOST_INPUTS_AT_ONCE + 1)
    await deck.refused(422, "invalid_request", "POST", "tenants/acme/inputs", body, client=node)


async def test_where_a_tenant_has_none_counted_counts_are_refused(deck: Deck, release: str) -> None:
    await allow(deck, 0, input_days=0)
    body = counted(deck.hub.clock.now_ms() // DAY_MS)
    await deck.refused(409, "inputs_off", "POST", "tenants/acme/inputs", body, client=await deck.as_role("agent", "n1"))


async def test_the_loop_says_where_each_tenant_stands_and_no_other_tenants_token_reads_it(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = await deck.ok("GET", "loop")
    assert [row[of] for of in ("tenant", "route", "signals", "wrong", "loop")] == ["acme", "production", [], 0, None]
    today = deck.hub.clock.now_ms() // DAY_MS
    await allow(deck, 0, expected_changes=[{"at_ms": (today + 5) * DAY_MS, "what": "new tax codes"}])
    await at_day(deck, monkeypatch, today + 6)
    assert (await deck.ok("GET", "loop?tenant=acme"))[0]["signals"] == ["expected"]
    await at_day(deck, monkeypatch, today + 3)  # what was made is good for a minute of the list alone
    assert (await deck.ok("GET", "loop"))[0]["signals"] == ["expected"]
    assert (await deck.ok("GET", "loop?tenant=acme"))[0]["signals"] == []
    await deck.ok("POST", "tenants", {"name": "bolt"})
    theirs = await deck.client_of("viewer", "bolt")
    assert await deck.ok("GET", "loop", client=theirs) == []
    await deck.refused(403, "forbidden", "GET", "loop?tenant=acme", client=theirs)


def day_of(number: int, corrected: int, **more: Any) -> dict[str, Any]:
    day = str(date(1970, 1, 1) + timedelta(days=number))
    return {"replayed": True, "day": day, "said": 60, "corrected": corrected, **more}


async def test_replayed_days_are_a_signal_and_every_answer_says_that_they_were_replayed(
    deck: Deck, release: str
) -> None:
    today = deck.hub.clock.now_ms() // DAY_MS
    days = [day_of(today - 28 + n, 9 + n % 3 if n < 14 else 30) for n in range(28)]
    path, body = "tenants/acme/routes/production/replay", {"release": release, "days": days, "reason": "rehearsal"}
    await deck.ok("POST", path, body)
    found = await meters(deck)
    assert found["corrected"]["signal"]
    assert found["corrected"]["says"].endswith("21 days are replayed")
    told = found["route"]["replayed"]
    assert (told["days"], told["reason"], told["first"]) == (28, "rehearsal", days[0]["day"])
    (row,) = await deck.ok("GET", "loop?tenant=acme")
    assert (row["signals"], row["replayed"]) == (["corrected"], 28)
    await deck.ok("POST", path, body | {"days": days[:3]})  # the newest import counts
    assert (await meters(deck))["route"]["replayed"]["days"] == 3


async def test_days_that_are_not_over_and_rows_that_do_not_say_replayed_are_refused(deck: Deck, release: str) -> None:
    today, path = deck.hub.clock.now_ms() // DAY_MS, "tenants/acme/routes/production/replay"
    for days in (
        [day_of(today, 1)],
        [day_of(today - 1, 1), day_of(today - 1, 2)],
        [day_of(today - 1, 61)],
        [day_of(today - 1, 1, replayed=False)],
        [],
    ):
        body = {"release": release, "days": days, "reason": "why"}
        await deck.refused(422, "invalid_request", "POST", path, body)
    viewer = await deck.as_role("viewer")
    body = {"release": release, "days": [day_of(today - 1, 1)], "reason": "why"}
    await deck.refused(403, "forbidden", "POST", path, body, client=viewer)
