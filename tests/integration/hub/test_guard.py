"""Guard at a hub: a candidate that is worse than the live release is taken out with nobody touching a key."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_candidates import call, pointer, step
from tests.integration.hub.test_counting import lose
from tests.integration.hub.test_moves import ROUTE

from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.errors import Refused
from loradeck.rules.quality.health import Units
from loradeck.schemas.counts import ArmOutcomes, AskedAgain
from loradeck.schemas.log import EventKind
from loradeck.schemas.moves import MoveResult


async def live(deck: Deck, join: Join, **settings: Any) -> tuple[LinkedAgent, str, str]:
    """acme on v2 over v1 on one node, with v3 registered."""
    await deck.tenant(**settings)
    one, two, other = [await deck.release(seed=seed) for seed in (1, 2, 3)]
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    return agent, two, other


async def votes(
    agent: LinkedAgent,
    seconds: int = 10,
    callers: int = 24,
    by_bin: dict[str, list[Units]] | None = None,
    share: int = 0,
    **bad: int,
) -> None:
    """Reports ten units a second and arm, of which so many are bad: release -> bad ones of each ten.

    `by_bin`: release -> the bad units of its arm in each bin of callers, and all of them, since the step `share`.
    """
    rows = [
        agent.served().model_copy(
            update={
                "release": release,
                "votes": tuple((second, 10, 0, 10, worse) for second in range(100, 100 + seconds)),
                **dict.fromkeys(("attempted", "admitted", "finished", "checked"), 10 * seconds),
                "bad": worse * seconds,
                "callers": callers,
                "arm": arm(by_bin[release], share) if by_bin is not None else None,
            }
        )
        for release, worse in bad.items()
    ]
    await agent.report(*rows)


def arm(by_bin: list[Units], step: int) -> ArmOutcomes:
    """The outcomes of an arm in so many bins of callers: bad units, and all of them."""
    bins = tuple((at, (n, 0, n, bad)) for at, (bad, n) in enumerate(by_bin))
    return ArmOutcomes(step=step, keys=len(by_bin), bins=bins)


async def test_a_candidate_that_is_worse_than_the_live_release_is_rolled_back(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    seen = pointer(deck)
    await votes(agent, **{two: 0, other: 4})
    await until(lambda: pointer(deck).candidate is None, "guard has taken the candidate out")
    now = pointer(deck)
    event = deck.hub.log.last_move(now)
    assert event is not None
    assert (event.kind, event.actor, now.release, now.held) == (EventKind.ROLLBACK, "guard", two, True)
    assert [q.release for q in now.quarantined] == [other]
    assert event.reason == "guard: bad 40.0% of 100 votes of 24 callers, beside it 0.0% of 100"
    evidence = event.payload["evidence"]
    assert isinstance(evidence, dict)
    assert evidence["votes"] == [40, 100]
    # Neither the rollback nor the hold of a guard is undone without a reason.
    undo = {"event": event.id, "confirmed": True}
    clear = {"held": False, "expected_generation": now.generation}
    for call_, body in (("undo", undo), ("hold", clear)):
        answer = await deck.local.post(f"{ROUTE}/{call_}", json={**body, "idempotency_key": key()})
        assert (answer.status_code, answer.json()["code"]) == (422, "reason_required"), call_
    assert pointer(deck) == now
    # A person whose screen still showed the candidate presses R: it has been done, and goes no further.
    press = {"expected_generation": seen.generation, "idempotency_key": key(), "to": two}
    result = MoveResult.model_validate(await deck.ok("POST", f"{ROUTE}/rollback", press))
    assert result.already is not None
    assert (result.already.id, pointer(deck).release) == (event.id, two)


async def test_a_candidate_that_is_as_bad_as_the_live_release_is_only_held(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    await votes(agent, **{two: 4, other: 4})
    await until(lambda: pointer(deck).held, "guard holds")
    assert pointer(deck).candidate is not None
    assert "not seen to be worse than what answers beside it" in (await deck.row()).guard


async def test_one_broken_caller_takes_no_candidate_out(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    fine = [(0, 20)] * 10
    await votes(agent, seconds=20, by_bin={two: fine, other: [(40, 60), *[(0, 15)] * 9]}, **{two: 0, other: 2})
    await until(lambda: pointer(deck).held, "guard holds")
    assert pointer(deck).candidate is not None
    assert "not seen to be worse than what answers beside it without one caller" in (await deck.row()).guard
    clear = {"held": False, "expected_generation": pointer(deck).generation, "reason": "it is one caller"}
    await deck.ok("POST", f"{ROUTE}/hold", {**clear, "idempotency_key": key()})
    await step(deck, 100, override=True, reason="it is one caller")  # of the new share nothing is known yet
    deck.hub.guard.tick()
    assert "without one caller" in (await deck.row()).guard
    assert pointer(deck).candidate is not None
    others_too = [(90, 130), *[(6, 30)] * 9]
    await votes(agent, seconds=40, by_bin={two: [(0, 40)] * 10, other: others_too}, share=1, **{two: 0, other: 4})
    await until(lambda: pointer(deck).candidate is None, "guard has taken the candidate out")


async def test_a_promote_with_nothing_beside_it_is_held_and_said(deck: Deck, join: Join) -> None:
    agent, two, _ = await live(deck, join, guard="rollback")
    await votes(agent, **{two: 4})
    await until(lambda: pointer(deck).held, "guard holds")
    assert pointer(deck).release == two
    assert "nothing answers beside it" in (await deck.row()).guard


async def asked_again(
    agent: LinkedAgent, two: str, one: str, *, given: int, beneath: int, seconds: int = 10, callers: int = 24
) -> None:
    """Reports a promote that is bad, and what the release beneath made of a hundred of its requests."""
    pairs = AskedAgain(release=one, asked=100, pairs=100, checked=100, bad=(given, beneath))
    row = agent.served().model_copy(
        update={
            "release": two,
            "votes": tuple((second, 20, 0, 20, 8) for second in range(100, 100 + seconds)),
            **dict.fromkeys(("attempted", "admitted", "finished", "checked"), 20 * seconds),
            "bad": 8 * seconds,
            "callers": callers,
            "again": pairs,
        }
    )
    await agent.report(row)


async def test_a_promote_that_is_worse_than_the_release_beneath_is_rolled_back(deck: Deck, join: Join) -> None:
    agent, two, _ = await live(deck, join, guard="rollback")
    one = pointer(deck).beneath[0]
    entry = agent.entries[pointer(deck).key]
    assert (entry.beneath[0].id, entry.asked_again_until_ms) == (one, (pointer(deck).moved_ms or 0) + 86_400_000)
    await asked_again(agent, two, one, given=40, beneath=1)
    await until(lambda: pointer(deck).release == one, "guard rolls back")
    event = deck.hub.log.recent[-1]
    assert (event.kind, event.actor) == (EventKind.ROLLBACK, "guard")
    assert event.payload["evidence"]["given"] == [40, 100]
    assert event.payload["evidence"]["control"] == [1, 100]
    assert pointer(deck).held
    await until(lambda: agent.entry.generation == pointer(deck).generation, "the node is told")
    assert agent.entry.asked_again_until_ms is None  # a rollback is compared with nothing


@pytest.mark.parametrize("callers", [1, 2])
async def test_a_promote_is_rolled_back_though_one_or_two_keys_send_all_its_requests(
    deck: Deck, join: Join, callers: int
) -> None:
    agent, two, _ = await live(deck, join, guard="rollback")
    beneath = pointer(deck).beneath[0]
    await asked_again(agent, two, beneath, given=40, beneath=1, callers=callers)
    await until(lambda: pointer(deck).release == beneath, "guard rolls back")


async def test_a_key_whose_requests_no_release_can_answer_moves_nothing(deck: Deck, join: Join) -> None:
    agent, two, _ = await live(deck, join, guard="rollback")
    await asked_again(agent, two, pointer(deck).beneath[0], given=40, beneath=40, callers=1)
    await until(lambda: pointer(deck).held, "guard holds")
    assert pointer(deck).release == two


async def test_a_promote_whose_answers_take_four_seconds_is_rolled_back_by_what_its_router_reports_each_second(
    deck: Deck, join: Join
) -> None:
    """All are asked again, three in ten are bad, and the load falls before the first answer ends."""
    agent, two, _ = await live(deck, join, guard="rollback")
    beneath, lasts_s = pointer(deck).beneath[0], 4
    asked_by_second = [40] * 4 + [20] * 16
    for now in range(1, len(asked_by_second) + 1):
        begun, ended = asked_by_second[:now], asked_by_second[: max(0, now - lasts_s)]
        asked, pairs = sum(begun), sum(ended)
        bad = sum(3 * n // 10 for n in ended)
        votes = tuple(
            (100 + at, n, 0, n if at < len(ended) else 0, 3 * n // 10 if at < len(ended) else 0)
            for at, n in enumerate(begun)
        )
        row = agent.served().model_copy(
            update={
                "release": two,
                "votes": votes,
                **dict.fromkeys(("attempted", "admitted"), asked),
                **dict.fromkeys(("finished", "checked"), pairs),
                "bad": bad,
                "callers": 24,
                "again": AskedAgain(release=beneath, asked=asked, pairs=pairs, checked=pairs, bad=(bad, 0)),
            }
        )
        await agent.report(row)
    await until(lambda: pointer(deck).release == beneath, "guard rolls back")
    event = deck.hub.log.recent[-1]
    assert (event.kind, event.actor) == (EventKind.ROLLBACK, "guard")


async def test_a_promote_that_is_as_bad_as_the_release_beneath_is_held_and_both_are_shown(
    deck: Deck, join: Join
) -> None:
    agent, two, _ = await live(deck, join, guard="rollback")
    await asked_again(agent, two, pointer(deck).beneath[0], given=40, beneath=38)
    await until(lambda: pointer(deck).held, "guard holds")
    row = await deck.row()
    assert row.pointer.release == two
    assert "not seen to be worse" in row.guard
    assert row.again is not None
    assert (row.again.release.label, row.again.counts.pairs, row.again.counts.bad) == ("v1", 100, (40, 38))
    text = (await deck.local.get("http://hub/metrics")).text
    again = [line for line in text.splitlines() if line.startswith("loradeck_pointer_asked_again_requests{")]
    assert {(line.split('what="')[1].split('"')[0], float(line.split()[-1])) for line in again} == {
        ("asked", 100),
        ("shed", 0),
        ("bad", 38),
    }


async def test_a_route_without_a_guard_that_acts_is_asked_nothing_again(deck: Deck, join: Join) -> None:
    agent, _, _ = await live(deck, join, guard="alert")
    assert agent.entries[pointer(deck).key].asked_again_until_ms is None


async def test_a_guard_that_only_alerts_moves_nothing(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join, guard="alert")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    await votes(agent, **{two: 0, other: 4})
    await until(lambda: deck.hub.guard.said.get(pointer(deck).key), "guard says so")
    assert (pointer(deck).candidate is not None, pointer(deck).held) == (True, False)


async def test_two_callers_take_no_candidate_out(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    await votes(agent, callers=2, **{two: 0, other: 4})
    await until(lambda: pointer(deck).held, "guard holds")
    assert pointer(deck).candidate is not None
    assert "only 2 callers" in (await deck.row()).guard


async def test_a_guard_whose_hold_was_cleared_still_rolls_back_and_counts_that_once(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    await votes(agent, callers=2, **{two: 0, other: 4})
    await until(lambda: pointer(deck).held, "guard holds")
    clear = {"held": False, "expected_generation": pointer(deck).generation, "idempotency_key": key(), "reason": "ours"}
    await deck.ok("POST", f"{ROUTE}/hold", clear)
    deck.hub.guard.tick()
    await votes(agent, seconds=11, callers=24, **{two: 0, other: 4})
    await until(lambda: pointer(deck).candidate is None, "guard has taken the candidate out")
    kinds = [event.kind for event in deck.hub.log.recent if event.actor == "guard"]
    assert kinds == [EventKind.HOLD, EventKind.ROLLBACK]  # the hold that a person has cleared is not repeated
    assert [move.tenant for _, move in deck.hub.guard._made] == ["acme"]


async def test_guard_goes_no_further_than_the_forward_move_whatever_comes_after_it(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    one = pointer(deck).beneath[0]
    await call(deck, "start", release=other, unit="user", named=["ann"])
    await votes(agent, **{two: 0, other: 4})
    await until(lambda: pointer(deck).candidate is None, "guard has taken the candidate out")
    clear = {"held": False, "expected_generation": pointer(deck).generation, "idempotency_key": key(), "reason": "ours"}
    await deck.ok("POST", f"{ROUTE}/hold", clear)
    before = pointer(deck)
    await asked_again(agent, two, one, given=40, beneath=1)  # what guard went back to is bad too
    await until(lambda: deck.hub.counts.live_total(before.key, before.generation, two).bad, "heard")
    deck.hub.guard.tick()
    assert not deck.hub.guard.said
    assert pointer(deck) == before


async def test_guard_moves_no_pointer_that_a_node_has_seen_moved_farther(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    before, refused = pointer(deck), list[Any]()

    def held_back(key: Any) -> None:
        refused.append(key)
        raise Refused("held_back", "a node has seen it moved farther")

    monkeypatch.setattr(deck.hub.moves_allowed, "check_pointer", held_back)
    await votes(agent, **{two: 0, other: 4})
    await until(lambda: refused, "guard has asked")
    assert pointer(deck) == before


async def test_a_route_without_a_guard_is_left_alone(deck: Deck, join: Join) -> None:
    agent, two, other = await live(deck, join)
    await call(deck, "start", release=other, unit="user", named=["ann"])
    before = pointer(deck)
    await votes(agent, **{two: 0, other: 4})
    deck.hub.guard.tick()
    assert pointer(deck) == before
    assert not deck.hub.guard.said


async def test_votes_on_releases_that_a_node_was_not_told_to_serve_are_not_kept(deck: Deck, join: Join) -> None:
    agent, two, _ = await live(deck, join, guard="rollback")
    before = pointer(deck)
    await votes(agent, **{two: 0} | {f"{number:064x}": 9 for number in range(50)})
    await until(lambda: deck.hub.counts.live_total(before.key, before.generation, two).attempted, "counted")
    assert list(deck.hub.votes._stints[before.key]) == [(before.generation, two)]
    deck.hub.guard.tick()
    assert pointer(deck) == before


# ---- what guard never does, at a hub; the rules' own tests are in unit/rules/test_guard.py --------------------


def _a_day_later(deck: Deck, _: Any) -> None:
    now_ms = deck.hub.clock.now_ms
    deck.hub.clock.now_ms = lambda: now_ms() + 86_401_000


def _settling(_: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MovesAllowed, "refusing", "settling")


def _three_within_the_hour(deck: Deck, _: Any) -> None:
    """What a hub that starts reads of its log."""
    by = {
        "actor": "guard",
        "payload": {"automation": True},
        "kind": EventKind.ROLLBACK,
        "at_ms": deck.hub.clock.now_ms(),
    }
    recent = deck.hub.log.recent
    recent.extend([recent[-1].model_copy(update=by)] * 3)
    deck.hub.guard.load()


@pytest.mark.parametrize(
    ("never", "says", "holds"),
    [
        (_a_day_later, "it has been live for a day", False),
        (_settling, "", False),
        (_three_within_the_hour, "guard has moved 3 pointers of acme within the hour", True),
    ],
)
async def test_guard_rolls_nothing_back(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch, never: Any, says: str, holds: bool
) -> None:
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    never(deck, monkeypatch)
    await votes(agent, **{two: 0, other: 4})
    await until(lambda: deck.hub.counts.live_total(pointer(deck).key, pointer(deck).generation, other).checked, "heard")
    deck.hub.guard.tick()
    await until(lambda: pointer(deck).held == holds, "guard has done what it may")
    assert pointer(deck).candidate is not None
    said = deck.hub.guard.said.get(pointer(deck).key, "")
    assert says in said
    assert bool(said) == bool(says), "while the hub settles it does not even look"


async def test_guard_rolls_nothing_back_while_half_of_the_placement_is_silent(deck: Deck, join: Join) -> None:
    silent = await join("n2")
    agent, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    await votes(silent, **{two: 0, other: 4})
    await lose(deck, silent)
    assert deck.hub.replicas.progress(pointer(deck).key).reachable == 1
    await votes(agent, **{two: 0, other: 4})
    said = deck.hub.guard.said
    await until(lambda: "half of its replicas are not heard" in said.get(pointer(deck).key, ""), "guard says so")
    assert (pointer(deck).candidate is not None, pointer(deck).held) == (True, False)


async def test_guard_rolls_nothing_back_on_the_word_of_one_node_of_two(deck: Deck, join: Join) -> None:
    good = await join("n2")
    liar, two, other = await live(deck, join, guard="rollback")
    await call(deck, "start", release=other, unit="user", named=["ann"])
    await votes(good, **{two: 0, other: 0})
    await votes(liar, **{two: 0, other: 9})
    said = deck.hub.guard.said
    await until(lambda: said.get(pointer(deck).key), "guard says so")
    assert "n1 alone says so" in said[pointer(deck).key]
    assert (pointer(deck).candidate is not None, pointer(deck).held) == (True, False)
