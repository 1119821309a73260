"""Candidates that a hub steps by itself: by what nodes report, and never where something speaks against it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_candidates import body, call, pointer, step, three
from tests.integration.hub.test_guard import votes
from tests.integration.hub.test_moves import ROUTE
from tests.integration.hub.test_reviews import reported

from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.quality.detection import HORIZON_S
from loradeck.schemas.candidate import StepPlan
from loradeck.schemas.counts import BINS, ArmOutcomes
from loradeck.schemas.log import EventKind

PLAN = {"steps": [100, 500], "margin": 0.02, "min_s": 0}


async def started(deck: Deck, join: Join, *nodes: str, **plan: Any) -> tuple[list[LinkedAgent], str, str]:
    """acme on v2, with v3 out for nobody yet, by a plan."""
    first, _, two, other = await three(deck, join)
    agents = [first, *[await join(node) for node in nodes]]
    await call(deck, "start", release=other, unit="user", plan=PLAN | plan)
    return agents, two, other


async def says(agent: LinkedAgent, bad: dict[str, int], *, n: int = 100, keys: int = 60, at: int | None = None) -> None:
    """Reports an arm of each release: so many units in each bin, and how many of them are bad."""
    out = pointer(agent.deck).candidate
    assert out is not None
    sums = n * BINS
    await agent.report(
        *(
            agent.served().model_copy(
                update={
                    "release": release,
                    **dict.fromkeys(("attempted", "admitted", "finished", "checked"), sums),
                    "bad": worse * BINS,
                    "keys": keys,
                    "arm": ArmOutcomes(
                        step=out.step if at is None else at,
                        keys=keys,
                        bins=tuple((bin_, (n, 0, n, worse)) for bin_ in range(BINS)),
                    ),
                }
            )
            for release, worse in bad.items()
        )
    )


def share(deck: Deck) -> tuple[int, int]:
    out = pointer(deck).candidate
    assert out is not None
    return out.permille, out.step


async def awaited(deck: Deck) -> str:
    row = await deck.row()
    assert row.candidate is not None
    return "; ".join(row.candidate.waits)


async def waits_for(deck: Deck, words: str) -> None:
    """The hub has looked, and says what it waits for."""
    await until(lambda: words in "; ".join(deck.hub.steps.said.get(pointer(deck).key, ())), words)


async def test_a_share_grows_as_the_evidence_says_and_each_step_is_an_event_below_the_generation(
    deck: Deck, join: Join
) -> None:
    (agent,), two, other = await started(deck, join)
    began = pointer(deck)
    await waits_for(deck, "0 of 50 keys")
    assert await awaited(deck) == "0 of 50 keys"
    await says(agent, {two: 1, other: 1})
    await until(lambda: share(deck)[0] == 100, "there are keys to draw the first share from")
    await waits_for(deck, "0 of 20 keys")
    await says(agent, {two: 2, other: 2}, n=200, at=0)  # of the share before: says nothing
    await waits_for(deck, "0 of 20 keys")
    await says(agent, {two: 4, other: 4}, n=300)
    await until(lambda: share(deck)[0] == 500, "it is as good")
    event = deck.hub.log.recent[-1]
    assert (event.kind, event.actor, event.payload["automation"]) == (EventKind.CANDIDATE_STEP, "steps", True)
    arm = r"1.3% \([^()]*, n = 19,200\)"
    assert re.match(rf"steps: bad answers {arm}, live {arm} \(upper bound \+", event.reason), event.reason
    assert [arm["candidate"]["n"] for arm in event.payload["evidence"]["arms"]] == [19200, 19200]
    assert (pointer(deck).generation, pointer(deck).last_move) == (began.generation, began.last_move)
    await waits_for(deck, "its finish, by a person")
    await until(lambda: agent.entry.candidate is not None and agent.entry.candidate.permille == 500, "it is sent")
    assert "plan" not in agent.entry.candidate.model_dump()  # routers need no plan


async def test_a_candidate_that_is_worse_stays_where_it_is_and_the_row_says_why(deck: Deck, join: Join) -> None:
    (agent,), two, other = await started(deck, join)
    await says(agent, {two: 1, other: 1})
    await until(lambda: share(deck)[0] == 100, "there are keys")
    await says(agent, {two: 1, other: 9}, n=200)
    await waits_for(deck, "bad answers: upper bound ")
    row = await deck.row()
    assert row.candidate is not None
    bad = row.candidate.arms[0]
    assert (bad.candidate.bad, bad.candidate.n, bad.candidate.keys) == (9 * BINS, 200 * BINS, 60)
    assert bad.live.low < 1 / 200 < bad.live.high
    assert bad.value == pytest.approx(8 / 200)
    assert share(deck) == (100, 1)


async def test_what_somebody_holds_is_stepped_no_more_until_it_is_resumed(deck: Deck, join: Join) -> None:
    (agent,), two, other = await started(deck, join)
    viewer = await deck.as_role("operator")
    at = {"expected_generation": pointer(deck).generation}
    await deck.ok("POST", f"{ROUTE}/candidate/hold", at | {"held": True, "reason": "dinner", "idempotency_key": key()})
    await says(agent, {two: 1, other: 1})
    await waits_for(deck, ": dinner")
    assert share(deck) == (0, 0)
    asked = at | {"held": False, "idempotency_key": key()}
    await deck.refused(403, "forbidden", "POST", f"{ROUTE}/candidate/hold", asked, client=viewer)
    await deck.ok("POST", f"{ROUTE}/candidate/hold", asked)
    await until(lambda: share(deck)[0] == 100, "it goes on")
    await step(deck, 50)
    await waits_for(deck, "has narrowed the share")


async def test_a_hold_a_freeze_window_a_hub_that_settles_and_silent_replicas_stop_it(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    (agent,), two, other = await started(deck, join)
    now = deck.hub.clock.now_ms()
    config = deck.hub.log.state.config(pointer(deck).key).model_dump(mode="json")
    await deck.ok("PUT", ROUTE, config | {"freeze": [[now - 1000, now + 3_600_000]]})
    body = {"held": True, "expected_generation": pointer(deck).generation, "idempotency_key": key(), "reason": "wait"}
    await deck.ok("POST", f"{ROUTE}/hold", body)
    await says(agent, {two: 1, other: 1})
    await waits_for(deck, "somebody to release the hold; the end of this: this route is in a freeze window")
    monkeypatch.setattr(deck.hub.steps, "_heard", lambda _: 0.5)
    await waits_for(deck, "more than half of its replicas to be heard")
    monkeypatch.setattr(MovesAllowed, "refusing", "settling")
    await waits_for(deck, "this hub to make forward moves")
    assert share(deck) == (0, 0)


async def test_one_node_of_two_steps_nothing_by_its_word(deck: Deck, join: Join) -> None:
    (liar, honest), two, other = await started(deck, join, "n2")
    for agent, bad in ((liar, 0), (honest, 1)):
        await says(agent, {two: 1, other: bad})
    await until(lambda: share(deck)[0] == 100, "there are keys")
    await says(honest, {two: 1, other: 9}, n=200)
    await says(liar, {two: 1, other: 0}, n=9000)
    await waits_for(deck, "bad answers: the same without the word of n1")
    assert share(deck) == (100, 1)


async def test_one_node_of_two_gives_a_candidate_no_first_callers_by_its_word(deck: Deck, join: Join) -> None:
    (first, second), two, other = await started(deck, join, "n2")
    await says(first, {two: 0, other: 0}, keys=1000)
    await waits_for(deck, "0 of 50 keys")
    assert share(deck) == (0, 0)
    await says(second, {two: 0, other: 0})
    await until(lambda: share(deck) == (100, 1), "the hub has stepped")


async def test_figures_that_cannot_be_are_not_taken(deck: Deck, join: Join) -> None:
    (agent,), two, other = await started(deck, join)
    await says(agent, {two: 1, other: 1})
    await until(lambda: share(deck)[0] == 100, "there are keys")
    await says(agent, {two: 1, other: 9}, n=200)
    await waits_for(deck, "bad answers: upper bound ")
    before = deck.hub.arms.both(pointer(deck), pointer(deck).candidate)
    good = (agent.served(attempted=99_999, admitted=99_999, finished=99_999, checked=99_999)).model_copy(
        update={"release": other, "bad": 9 * BINS, "keys": 60}
    )
    fits = {"step": 1, "keys": 60}
    for arm in (
        ArmOutcomes(**fits, bins=((0, (200, 0, 200, 0)),)),  # fewer bad ones than before, and bins are gone
        ArmOutcomes(**fits, bins=tuple((n, (300, 0, 300, 301)) for n in range(BINS))),
        ArmOutcomes(**fits, bins=tuple((n, (300, -1, 300, 9)) for n in range(BINS))),
        ArmOutcomes(**fits, bins=tuple((n + 7, (300, 0, 300, 9)) for n in range(BINS))),
        ArmOutcomes(**fits, bins=tuple((n, (9000, 0, 9000, 9)) for n in range(BINS))),  # more than it was given
        ArmOutcomes(step=1, keys=10**6, bins=tuple((n, (300, 0, 300, 9)) for n in range(BINS))),
        ArmOutcomes(step=0, keys=60, bins=tuple((n, (300, 0, 300, 0)) for n in range(BINS))),
    ):
        await agent.report(good.model_copy(update={"arm": arm, "streams": hash(arm.bins) % 1000}))
    await agent.report(good.model_copy(update={"streams": 1001}))
    await until(
        lambda: any(c.streams == 1001 for c in deck.hub.counts.counters(pointer(deck).key)), "all reports are read"
    )
    assert deck.hub.arms.both(pointer(deck), pointer(deck).candidate) == before


async def test_a_router_that_starts_again_loses_no_outcome(deck: Deck, join: Join) -> None:
    (agent,), two, other = await started(deck, join, min_s=3600)
    await says(agent, {two: 1, other: 1})
    await until(lambda: share(deck)[0] == 100, "there are keys")

    def seen() -> int:
        candidate, _ = deck.hub.arms.both(pointer(deck), pointer(deck).candidate)
        return sum(sums[0] for of in candidate.values() for sums in of.bins.values())

    await says(agent, {two: 1, other: 1}, n=200)
    await until(lambda: seen() == 200 * BINS, "counted")
    rows = [
        agent.served().model_copy(
            update={
                "release": other,
                **dict.fromkeys(("attempted", "admitted", "finished"), 50),
                "arm": ArmOutcomes(step=1, keys=5, bins=((3, (50, 0, 0, 0)),)),
            }
        )
    ]
    await agent.report(*rows, router_boot="r2")
    await until(lambda: seen() == 200 * BINS + 50, "a router's second life is added to the first")


async def test_after_the_last_step_the_hub_finishes_it_if_the_plan_says_so(deck: Deck, join: Join) -> None:
    (agent,), two, other = await started(deck, join, steps=[1000], finish=True)
    await says(agent, {two: 1, other: 1})
    await until(lambda: pointer(deck).release == other, "it is live")
    event = deck.hub.log.last_move(pointer(deck))
    assert event is not None
    assert (event.kind, event.actor, pointer(deck).beneath[0]) == (EventKind.CANDIDATE_FINISH, "steps", two)
    await until(lambda: agent.entry.generation == pointer(deck).generation, "it is sent")


async def test_a_finish_that_the_rules_refuse_is_judged_again_when_something_has_changed_and_said_once(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (agent,), two, other = await started(deck, join, steps=[500], finish=True)
    suite = await deck.suite()
    config = deck.hub.log.state.config(pointer(deck).key).model_dump(mode="json")
    await says(agent, {two: 1, other: 1})
    await until(lambda: share(deck)[0] == 500, "there are keys")
    await deck.ok("PUT", ROUTE, config | {"gate": {"suite": suite, "max_drop": 1.0}})
    judged, drafted = [], deck.hub.promotions.check.drafted

    async def counted(*asked: Any) -> Any:
        judged.append(asked)
        return await drafted(*asked)

    monkeypatch.setattr(deck.hub.promotions.check, "drafted", counted)
    await says(agent, {two: 4, other: 4}, n=300)
    await waits_for(deck, "what refuses it: ")
    for _ in range(5):
        deck.hub.steps.tick()
        await until(lambda: not deck.hub.steps._acting, "it has looked")
    assert len(judged) == 1
    assert "has no gate result on this route's suite" in await awaited(deck)
    for release in (two, other):
        await reported(deck, release, suite)
    await until(lambda: pointer(deck).release == other, "it is finished once its gate has passed")
    assert len([record for record in caplog.records if "a step is refused" in record.message]) == 1


async def test_a_plan_goes_on_when_what_guard_has_alerted_on_is_over(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    (agent,), two, other = await started(deck, join)
    config = deck.hub.log.state.config(pointer(deck).key).model_dump(mode="json")
    await deck.ok("PUT", ROUTE, config | {"guard": "alert"})
    await votes(agent, **{two: 0, other: 4})
    await waits_for(deck, "guard: bad 40.0% of 100 votes")
    good = agent.served().model_copy(
        update={
            "release": other,
            "votes": ((110, 2000, 0, 2000, 0),),
            "bad": 40,
            "callers": 24,
            "keys": 60,
            **dict.fromkeys(("attempted", "admitted", "finished", "checked"), 2100),
        }
    )
    await agent.report(good)
    await waits_for(deck, "guard: bad 1.9% of 2100 votes")
    clock = deck.hub.votes._clock
    monkeypatch.setattr(deck.hub.votes, "_clock", lambda: clock() + HORIZON_S + 2)
    await until(lambda: share(deck)[0] == 100, "the plan goes on")
    assert pointer(deck).key not in deck.hub.guard.said


async def test_a_hold_of_guard_ends_a_plan_until_a_person_resumes_it_and_is_not_made_again(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    (agent,), two, other = await started(deck, join)
    config = deck.hub.log.state.config(pointer(deck).key).model_dump(mode="json")
    await deck.ok("PUT", ROUTE, config | {"guard": "hold"})
    await votes(agent, **{two: 0, other: 4})
    await until(lambda: pointer(deck).held, "guard holds")
    clear = {"held": False, "expected_generation": pointer(deck).generation, "idempotency_key": key()}
    await deck.ok("POST", f"{ROUTE}/hold", clear | {"reason": "a test"})
    commits, commit = [], deck.hub.log.commit

    async def counted(*drafts: Any) -> Any:
        commits.append(drafts)
        return await commit(*drafts)

    monkeypatch.setattr(deck.hub.log, "commit", counted)
    for _ in range(5):
        deck.hub.guard.tick()
        await until(lambda: not deck.hub.guard._acting, "it has looked")
    assert commits == []
    await waits_for(deck, "somebody to resume it: guard: bad 40.0% of 100 votes")
    assert (share(deck), pointer(deck).held) == ((0, 0), False)


async def test_a_plan_is_kept_with_the_candidate_over_a_restart_of_what_reads_the_log(deck: Deck, join: Join) -> None:
    await started(deck, join)
    out = pointer(deck).candidate
    assert out is not None
    assert out.plan == StepPlan.model_validate(PLAN)
    deck.hub.steps.load()
    await waits_for(deck, "0 of 50 keys")


async def ab(deck: Deck, **asked: Any) -> None:
    out = pointer(deck).candidate
    assert out is not None
    seen = {"expected_generation": pointer(deck).generation, "expected_step": out.step, "idempotency_key": key()}
    await deck.ok("POST", f"{ROUTE}/candidate/compare", seen | {"figure": "bad"} | asked)


async def results(deck: Deck, release: str) -> list[dict[str, Any]]:
    found = await deck.ok("GET", f"attestations?kind=comparison&subject={release}")
    return [one["body"] for one in found]


async def test_an_ab_is_attested_once_at_its_horizon_and_moves_nothing(deck: Deck, join: Join) -> None:
    agent, _, two, other = await three(deck, join)
    await call(deck, "start", release=other, unit="user")
    await says(agent, {two: 1, other: 1})
    await until(lambda: deck.hub.cohorts.keys(pointer(deck).key, pointer(deck).candidate) == 60, "keys are known")
    await ab(deck, keys=30, permille=500)
    before = pointer(deck)
    await waits_for(deck, "the end of its A/B of bad: 0 of 30 keys in each arm")
    await says(agent, {two: 1, other: 9}, n=200)
    await until(lambda: deck.hub.facts.comparison(before.key, other), "it is attested")
    await until(lambda: not deck.hub.steps.said[before.key], "nothing is awaited any more")
    await says(agent, {two: 2, other: 18}, n=400)
    deck.hub.steps.tick()
    (found,) = await results(deck, other)
    assert (found["against"], found["permille"], found["generation"]) == (two, 500, before.generation)
    arms = found["arms"]
    assert (arms["candidate"]["bad"], arms["candidate"]["n"], arms["live"]["keys"]) == (9 * BINS, 200 * BINS, 60)
    assert arms["value"] == pytest.approx(8 / 200)
    assert arms["low"] < arms["value"] < arms["high"] == found["highest"]
    assert pointer(deck) == before
    forged = {"kind": "comparison", "subject": other, "tenant": "acme", "route": "production", "body": found, "by": ""}
    await deck.refused(403, "forbidden", "POST", "attestations", forged)


async def test_a_frozen_route_gives_no_candidate_more_callers_and_an_override_says_what_it_passed(
    deck: Deck, join: Join
) -> None:
    agent, _, two, other = await three(deck, join)
    await call(deck, "start", release=other, unit="user")
    await says(agent, {two: 1, other: 1})
    await until(lambda: deck.hub.cohorts.keys(pointer(deck).key, pointer(deck).candidate) == 60, "keys are known")
    now = deck.hub.clock.now_ms()
    config = deck.hub.log.state.config(pointer(deck).key).model_dump(mode="json")
    await deck.ok("PUT", ROUTE, config | {"freeze": [[now - 1000, now + 3_600_000]]})
    wider = {"expected_generation": pointer(deck).generation, "expected_step": 0, "permille": 100}
    for what, more in (("step", {}), ("compare", {"figure": "bad", "keys": 30, "permille": 500})):
        asked = wider | more | {"idempotency_key": key()}
        await deck.refused(409, "frozen", "POST", f"{ROUTE}/candidate/{what}", asked)
    passed = await step(deck, 100, override=True, reason="the fix")
    event = passed.events[0]
    assert (event.override, event.payload["overridden"], share(deck)) == (True, ["frozen"], (100, 1))
    await step(deck, 50)  # less is never refused


async def test_a_gate_that_asks_for_an_ab_lets_a_candidate_start_and_finish_only_with_it(
    deck: Deck, join: Join
) -> None:
    agent, _, two, other = await three(deck, join)
    suite = await deck.suite()
    for release in (two, other):
        await reported(deck, release, suite)
    gate = {"suite": suite, "max_drop": 1.0, "compare": {"margin": 0.05, "keys": 30}}
    config = deck.hub.log.state.config(pointer(deck).key).model_dump(mode="json")
    await deck.ok("PUT", ROUTE, config | {"gate": gate})
    promote = {"release": other, "expected_generation": pointer(deck).generation, "idempotency_key": key()}
    refused = await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/promote", promote)
    assert "no A/B of bad against the live release" in refused.detail
    await call(deck, "start", release=other, unit="user")
    await says(agent, {two: 1, other: 1})
    await until(lambda: deck.hub.cohorts.keys(pointer(deck).key, pointer(deck).candidate) == 60, "keys are known")
    finish = {"release": other, "expected_generation": pointer(deck).generation, "idempotency_key": key()}
    await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/candidate/finish", finish)
    wider = {**body(deck), "expected_step": 0, "permille": 501}
    refused = await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/candidate/step", wider)
    assert "no A/B of bad against the live release" in refused.detail
    await ab(deck, keys=30, permille=500)
    await says(agent, {two: 2, other: 2}, n=200)
    await until(lambda: deck.hub.facts.comparison(pointer(deck).key, other), "it is attested")
    await step(deck, 1000)
    await call(deck, "finish", release=other)
    assert pointer(deck).release == other


async def test_a_hub_that_starts_again_goes_on_with_what_routers_say(data: Path) -> None:
    async with running(data) as deck:
        agent = LinkedAgent(deck, "n1")

        async def join(_: str) -> LinkedAgent:
            return await agent.join()

        _, two, other = await started(deck, join)
        await says(agent, {two: 1, other: 1})
        await until(lambda: share(deck)[0] == 100, "there are keys")
        await until(lambda: agent.entry.candidate is not None and agent.entry.candidate.step == 1, "it is sent")
    async with running(data) as deck:
        await agent.rejoin(deck)
        assert share(deck) == (100, 1)
        await says(agent, {two: 3, other: 3}, n=200)
        await says(agent, {two: 4, other: 4}, n=300)
        await until(lambda: share(deck)[0] == 500, "it goes on by what the routers have counted in all the time")
        await agent.leave()
