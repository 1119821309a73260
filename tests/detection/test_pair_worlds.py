"""The worlds of pairs are what they claim, and the plain rules do in them what a simulation of theirs has shown."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tests.detection.pair_worlds import __main__ as run
from tests.detection.pair_worlds.pair import Pair, first_of_minutes
from tests.detection.pair_worlds.peers import EveryPair, TwoProportions
from tests.detection.pair_worlds.worlds import (
    ASKED_AGAIN,
    CALLERS,
    NODES,
    RUN_S,
    TURNS,
    WORLDS,
    Aim,
    World,
    bound_s,
    needed,
)

NAMED = {world.name: world for world in WORLDS}


def half_an_hour(name: str, seed: int = 0) -> list[Pair]:
    """The pairs of a run's first half hour."""
    return [pair for pair in NAMED[name].pairs(seed) if pair.at_s < RUN_S]


def is_near(count: int, share: float, of: int) -> bool:
    """Whether a count is within five standard deviations of a share."""
    return abs(count - share * of) <= 5 * math.sqrt(share * (1 - share) * of)


def moved_back(name: str, rule: str, runs: int) -> int:
    """How many runs of a world a plain rule moves back."""
    return sum(run.decisions(NAMED[name], seed, {rule: run.PEERS[rule]})[rule] is not None for seed in range(runs))


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_pairs_are_ordered_by_time_and_a_seed_repeats_them(world: World) -> None:
    few = first_pairs(world, 200)
    assert few
    assert all(0 <= before.at_s <= after.at_s for before, after in pairwise(few))
    assert few == first_pairs(world, 200)
    assert few != first_pairs(world, 200, seed=1)
    assert {pair.node for pair in few} <= set(NODES)
    assert all(0 <= pair.caller < CALLERS for pair in few)


def first_pairs(world: World, pairs: int, seed: int = 0) -> list[Pair]:
    """The first so many pairs of a run."""
    return [pair for pair, _ in zip(world.pairs(seed), range(pairs), strict=False)]


def test_worlds_have_names_of_their_own() -> None:
    assert len(NAMED) == len(WORLDS)


@pytest.mark.parametrize(("name", "share"), [("2/2, nothing repeats", 0.02), ("5/5, nothing repeats", 0.05)])
def test_an_equal_release_is_bad_as_often_as_the_prior_and_no_conversation_repeats(name: str, share: float) -> None:
    pairs = half_an_hour(name)
    assert abs(len(pairs) - 4 * RUN_S) <= 5 * math.sqrt(4 * RUN_S)
    assert is_near(sum(pair.live_bad and not pair.prior_bad for pair in pairs), share, len(pairs))
    assert is_near(sum(pair.prior_bad and not pair.live_bad for pair in pairs), share, len(pairs))
    assert len({pair.conversation for pair in pairs}) == len(pairs)
    assert list(first_of_minutes(pairs)) == pairs
    largest = Counter(pair.caller for pair in pairs)[0]
    assert is_near(largest, 1 / sum(1 / rank for rank in range(1, CALLERS + 1)), len(pairs))


@pytest.mark.parametrize("world", [world for world in WORLDS if world.shares is not None], ids=lambda world: world.name)
def test_a_worse_release_has_the_share_that_its_world_says(world: World) -> None:
    assert world.shares is not None
    pairs = first_pairs(world, 5000)
    assert is_near(sum(pair.live_bad and not pair.prior_bad for pair in pairs), world.shares.live_only, len(pairs))
    assert is_near(sum(pair.prior_bad and not pair.live_bad for pair in pairs), world.shares.prior_only, len(pairs))
    assert abs(pairs[-1].at_s - len(pairs) / world.rate) <= 5 * math.sqrt(len(pairs)) / world.rate


def test_what_half_of_the_callers_ask_again_is_bad_on_the_live_release_alone_or_on_both() -> None:
    pairs = half_an_hour("2/2, asks again")
    asked = Counter(pair.conversation for pair in pairs)
    again = [pair for pair in pairs if asked[pair.conversation] > 1]
    assert all(pair.live_bad for pair in again)
    assert {asked[pair.conversation] for pair in again if pair.at_s < RUN_S - 60} == {1 + ASKED_AGAIN}
    callers = {pair.caller for pair in again}
    assert not any(
        pair.live_bad and asked[pair.conversation] == 1 and pair.at_s < RUN_S - 60
        for pair in pairs
        if pair.caller in callers
    )


def test_loops_are_twice_a_second_for_as_long_as_they_say() -> None:
    lengths = Counter(pair.conversation for pair in half_an_hour("0.2/0.2, loops of a minute"))
    assert [many for _, many in lengths.most_common(4)] == [120, 120, 120, 1]
    lengths = Counter(pair.conversation for pair in half_an_hour("0.2/0.2, a loop of 25 minutes"))
    assert [many for _, many in lengths.most_common(2)] == [3000, 1]


def test_a_conversation_of_twelve_is_answered_alike_throughout() -> None:
    pairs = half_an_hour("0.2/0.2, conversations of twelve")
    judged = {(pair.conversation, pair.live_bad, pair.prior_bad, pair.caller) for pair in pairs}
    lengths = Counter(pair.conversation for pair in pairs)
    assert len(judged) == len(lengths)
    assert max(lengths.values()) == TURNS
    assert sum(many == TURNS for many in lengths.values()) > 0.9 * len(lengths)


def test_broken_callers_are_as_often_bad_on_either_half() -> None:
    for callers in (1, 2):
        name = f"2/2, {('one broken caller', 'two broken callers')[callers - 1]} of 200"
        runs = [half_an_hour(name, seed) for seed in range(3)]
        for pairs in runs:
            of = Counter(pair.caller for pair in pairs)
            bad = Counter(pair.caller for pair in pairs if pair.live_bad != pair.prior_bad)
            broken = [caller for caller in of if of[caller] >= 10 and bad[caller] > 0.25 * of[caller]]
            assert len(broken) <= callers
        odd = [pair for pairs in runs for pair in pairs if pair.live_bad != pair.prior_bad]
        assert is_near(sum(pair.live_bad for pair in odd), 0.5, len(odd))


def test_one_key_one_conversation_and_a_lying_node_are_what_they_say() -> None:
    key = half_an_hour("2/2, one key, forty conversations")
    assert ({pair.caller for pair in key}, len({pair.conversation for pair in key})) == ({0}, 40)
    alone = half_an_hour("1 → 30 %, one conversation alone")
    assert len({(pair.caller, pair.conversation) for pair in alone}) == 1
    claims = half_an_hour("2/2, one node of three claims bad answers")
    assert all((pair.live_bad, pair.prior_bad) == (True, False) for pair in claims if pair.node == NODES[2])
    honest = [pair for pair in claims if pair.node != NODES[2]]
    assert is_near(sum(pair.live_bad and not pair.prior_bad for pair in honest), 0.02, len(honest))
    prompts = half_an_hour("one key, eight prompts, one broke")
    assert {pair.conversation for pair in prompts if pair.live_bad} == {0}
    assert is_near(sum(pair.live_bad for pair in prompts), 1 / 8, len(prompts))


def test_the_first_pair_of_a_conversations_minute_is_kept_however_it_was_judged() -> None:
    def pair(at_s: float, caller: int, live_bad: bool) -> Pair:
        return Pair(at_s, caller, "talk", NODES[0], live_bad, False)

    pairs = [pair(1, 0, False), pair(2, 0, True), pair(3, 1, True), pair(59.9, 1, False), pair(60, 0, True)]
    assert list(first_of_minutes(pairs)) == [pairs[0], pairs[2], pairs[4]]
    turned = [replace(same, live_bad=not same.live_bad) for same in pairs]
    assert [kept.at_s for kept in first_of_minutes(turned)] == [1, 3, 60]


def test_evidence_of_every_pair_is_the_mean_bet_over_all_unfair_coins() -> None:
    rule = EveryPair()
    halves = [True, True, False, True, False, False, False, True, True, True, True]
    for n, is_live in enumerate(halves, 1):
        rule.add(Pair(0, 0, 0, NODES[0], is_live, not is_live))
        k, steps = sum(halves[:n]), 20_000
        coins = [0.5 + (step + 0.5) / (2 * steps) for step in range(steps)]
        assert rule.evidence == pytest.approx(
            sum((2 * coin) ** k * (2 - 2 * coin) ** (n - k) for coin in coins) / steps, rel=1e-6
        )
    before = rule.evidence
    rule.add(Pair(0, 0, 0, NODES[0], True, True))
    assert rule.evidence == before


def test_nineteen_bad_answers_of_the_live_release_alone_decide_and_eighteen_do_not() -> None:
    rule = EveryPair()
    decided = []
    for _ in range(19):
        rule.add(Pair(0, 0, 0, NODES[0], True, False))
        decided.append(rule.decides())
    assert decided == [False] * 18 + [True]


def test_two_proportions_are_compared_at_the_end_of_each_minute_only() -> None:
    rule = TwoProportions()
    for at in range(60):
        rule.add(Pair(at, 0, at, NODES[0], True, False))
        assert not rule.decides()
    rule.add(Pair(60, 0, 60, NODES[0], False, False))
    assert rule.decides()


def test_every_pair_moves_back_what_repeats_and_nothing_that_does_not() -> None:
    assert moved_back("2/2, nothing repeats", "every pair", 12) == 0
    assert moved_back("5/5, nothing repeats", "every pair", 12) == 0
    assert moved_back("2/2, asks again", "every pair", 12) >= 11
    assert moved_back("0.2/0.2, loops of a minute", "every pair", 12) == 12
    assert moved_back("0.2/0.2, a loop of 25 minutes", "every pair", 12) == 12


@pytest.mark.parametrize(("rate", "median_s"), [(40, 1.8), (4, 17)])
def test_every_pair_finds_a_clear_fault_as_soon_as_a_simulation_has_shown(rate: float, median_s: float) -> None:
    name = f"1 → 30 %, {rate:g} a second"
    runs = [run.decisions(NAMED[name], seed, {"every pair": EveryPair})["every pair"] for seed in range(40)]
    delays = sorted(decision[0] for decision in runs if decision is not None)
    assert len(delays) == 40
    assert delays[20] == pytest.approx(median_s, rel=0.25)


def test_bounds_are_in_pairs_and_in_minutes_of_conversations() -> None:
    world = NAMED["1 → 30 %, one key, forty conversations, 40 a second"]
    assert world.shares is not None
    assert needed(world.shares) == pytest.approx(61, abs=1)
    assert bound_s(world) == pytest.approx((1.5, 60.5), abs=0.1)
    assert all((bound_s(world) is not None) == (world.aim is Aim.MOVES) for world in WORLDS)


def test_runs_go_on_where_they_stopped_and_begin_anew_with_other_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.json"
    words = ["--rule", "tests.detection.pair_worlds.peers:EveryPair", "--no-peers", "--resume", str(path)]
    words += ["--world", "1 → 30 %, 4 a second"]
    run.main([*words, "--runs", "3"])
    run.main([*words, "--runs", "5"])
    in_parts = capsys.readouterr().out.split("###")[-1]
    path.unlink()
    run.main([*words, "--runs", "5"])
    assert capsys.readouterr().out.split("###")[-1] == in_parts
    assert "| moves back | 5 of 5 |" in in_parts
    path.write_text(path.read_text().replace(run.state_of_code(), "other"))
    run.main([*words, "--runs", "2"])
    assert "| 2 of 2 |" in capsys.readouterr().out


def test_no_part_begins_when_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    run.main(["--world", "2/2, nothing repeats", "--minutes", "0"])
    assert capsys.readouterr().out.count("| 0 of 0 |") == len(run.PEERS)
