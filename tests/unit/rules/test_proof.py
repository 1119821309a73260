"""Proof: which answers tell a release, and which do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from tests.fleets.in_process.log import digest, rid

from loradeck.rules.serving.proof import (
    CLEAR_NATS,
    ORDER,
    Level,
    Reached,
    attested,
    clearly_apart,
    counted,
    distinct,
    judge,
    reached,
)
from loradeck.schemas.attestation import CanaryItem, CanaryRecord, EngineBuild

BUILD = EngineBuild(engine="embedded", device="cpu", dtype="float32")
CLEAR, NEAR = 3.0, 0.2


def item(prompt: str, tokens: Sequence[int], margins: Sequence[float] | None = None) -> CanaryItem:
    return CanaryItem(prompt=digest(prompt), tokens=tuple(tokens), margins=tuple(margins or [CLEAR] * len(tokens)))


def record(label: str, *items: CanaryItem) -> CanaryRecord:
    return CanaryRecord(release=rid(label), build=BUILD, items=items)


BASE = record("base", item("p", [1, 2, 3]), item("q", [9, 9, 9]))
V1 = record("v1", item("p", [1, 2, 4]), item("q", [9, 9, 9]))
V2 = record("v2", item("p", [1, 5, 6]), item("q", [9, 9, 9]))
CALLED = {BASE.release: "the base alone", V2.release: "v2"}
OTHERS: Mapping[str, CanaryRecord | None] = {r.release: r for r in (BASE, V2)}


def test_the_own_tokens_of_a_release_prove_it() -> None:
    assert judge(V1.items, V1, OTHERS, is_base=False).level is Level.PROVEN


@pytest.mark.parametrize("other", [BASE, V2], ids=["the bare base", "another adapter"])
def test_the_tokens_of_another_release_fail(other: CanaryRecord) -> None:
    judgement = judge(other.items, V1, OTHERS, is_base=False)
    assert (judgement.level, judgement.code) == (Level.FAILED, "canary_mismatch")


def test_what_is_only_listed_says_whose_answers_it_gives() -> None:
    alike = record("v1", *BASE.items)
    judgement = judge(alike.items, alike, {BASE.release: BASE}, is_base=False, called=CALLED)
    assert (judgement.level, judgement.code) == (Level.LISTED, "not_distinct")
    assert judgement.detail == "the base alone answers the canaries alike"


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (BASE.items, "the base alone answers the canaries alike"),
        (V2.items, "v2 answers the canaries alike"),
        (
            [item("p", [1, 2, 4], [CLEAR, NEAR, CLEAR])],
            "it differs from the base alone only where an answer is unclear",
        ),
        ([item("p", [5, 6], [NEAR, NEAR])], "no answer begins clearly: the two likeliest tokens are within 0.5 nat"),
        (V1.items, "its answers were not recorded when it was loaded"),
    ],
    ids=["like the base's", "like the prior's", "unclear where it differs", "unclear from the start", "distinct"],
)
def test_what_has_no_record_says_why_none_was_made(answers: Sequence[CanaryItem], why: str) -> None:
    judgement = judge(answers, None, OTHERS, is_base=False, called=CALLED)
    assert (judgement.level, judgement.code) == (Level.LISTED, "no_record")
    assert judgement.detail.startswith(why)


def test_two_answers_are_apart_by_the_smallest_margin_up_to_the_first_token_that_differs() -> None:
    mine = item("p", [1, 2, 4, 5], [3.0, 2.0, 1.5, 0.1])
    assert clearly_apart(mine, item("p", [1, 2, 7], [4.0, 0.9, 2.0])) == 0.9
    assert clearly_apart(mine, item("p", [1, 2, 4], [3.0] * 3)) is None, "the shorter one is the beginning"
    assert clearly_apart(mine, item("p", [1, 2, 7], [4.0, 0.3, 2.0])) is None, "a near tie comes before it"
    assert clearly_apart(mine, item("p", [9], [3.0])) == 3.0


def test_a_canary_that_only_one_was_asked_does_not_make_their_answers_unlike() -> None:
    judgement = judge((*BASE.items, item("only here", [4])), None, {BASE.release: BASE}, is_base=False, called=CALLED)
    assert judgement.detail == "the base alone answers the canaries alike"


def test_the_base_is_not_found_to_answer_like_another_release() -> None:
    judgement = judge(BASE.items, None, {rid("v3"): record("v3", *BASE.items)}, is_base=True)
    assert judgement.detail == "its answers were not recorded when it was loaded"


def test_a_mismatch_says_which_canary_and_position() -> None:
    judgement = judge(BASE.items, V1, OTHERS, is_base=False)
    assert judgement.detail == f"canary {digest('p')[:6]}, position 2: token 3, recorded 4"


def test_positions_count_up_to_the_first_near_tie() -> None:
    tied = record("v1", item("p", [1, 5, 4, 7], [CLEAR, CLEAR, NEAR, CLEAR]), item("q", [9]))
    assert counted(tied.items[0]) == 2
    swayed = (item("p", [1, 5, 8, 8]), item("q", [9]))
    assert judge(swayed, tied, {BASE.release: BASE}, is_base=False).level is Level.PROVEN
    wrong = (item("p", [1, 6, 4, 7]), item("q", [9]))
    assert judge(wrong, tied, {BASE.release: BASE}, is_base=False).level is Level.FAILED


@pytest.mark.parametrize(("margin", "counts"), [(CLEAR_NATS, 1), (CLEAR_NATS - 1e-9, 0)])
def test_a_margin_of_half_a_nat_counts(margin: float, counts: int) -> None:
    assert counted(item("p", [1], [margin])) == counts


def test_an_answer_that_is_too_short_or_missing_fails() -> None:
    short = (item("p", [1, 2]), item("q", [9, 9, 9]))
    assert judge(short, V1, OTHERS, is_base=False).code == "canary_mismatch"
    assert judge(V1.items[:1], V1, OTHERS, is_base=False).code == "canary_missing"


def test_a_release_that_answers_like_the_base_is_listed_and_never_proven() -> None:
    mute = record("v3", *BASE.items)
    judgement = judge(BASE.items, mute, {BASE.release: BASE}, is_base=False)
    assert (judgement.level, judgement.code) == (Level.LISTED, "not_distinct")


def test_a_release_must_differ_from_each_that_it_may_be_mistaken_for() -> None:
    twin = record("v3", *V1.items)
    assert judge(V1.items, V1, {**OTHERS, twin.release: twin}, is_base=False).level is Level.LISTED


def test_a_difference_at_a_near_tie_of_either_tells_nothing() -> None:
    tied = record("v3", item("p", [1, 2, 7], [CLEAR, CLEAR, NEAR]))
    assert not distinct(V1.items, tied.items)
    assert not distinct(tied.items, V1.items)
    assert distinct(V1.items, BASE.items)
    assert judge(V1.items, V1, {tied.release: tied}, is_base=False).level is Level.LISTED


@pytest.mark.parametrize("others", [{}, {rid("v1"): V1}, {rid("base"): None}, {**OTHERS, rid("v9"): None}])
def test_what_has_no_record_is_not_ruled_out(others: Mapping[str, CanaryRecord | None]) -> None:
    judgement = judge(V1.items, V1, others, is_base=False)
    assert (judgement.level, judgement.code) == (Level.LISTED, "not_distinct")


def test_the_base_alone_matches_its_own_record() -> None:
    assert judge(BASE.items, BASE, {V1.release: V1}, is_base=True).level is Level.PROVEN
    assert judge(V1.items, BASE, {V1.release: V1}, is_base=True).level is Level.FAILED


@pytest.mark.parametrize(
    ("known", "code"),
    [(None, "no_record"), (record("v1"), "no_canaries"), (record("v1", item("p", [1], [NEAR])), "no_canaries")],
)
def test_without_anything_that_counts_it_is_listed(known: CanaryRecord | None, code: str) -> None:
    judgement = judge(V1.items, known, OTHERS, is_base=False)
    assert (judgement.level, judgement.code) == (Level.LISTED, code)


@pytest.mark.parametrize(
    ("placed", "reachable", "checked", "min_replicas", "seen"),
    [
        (2, 2, 2, 1, (2, 2)),
        (2, 2, 1, 1, None),  # a reachable one is not proven
        (3, 2, 2, 2, (2, 3)),  # the third is not heard from, and counted
        (3, 1, 1, 2, None),  # too few
        (1, 1, 1, 2, None),
        (0, 0, 0, 1, None),
        (3, 0, 0, 0, None),
    ],
)
def test_a_generation_is_attested_by_enough_replicas_and_all_that_are_heard_from(
    placed: int, reachable: int, checked: int, min_replicas: int, seen: tuple[int, int] | None
) -> None:
    assert attested(placed=placed, reachable=reachable, checked=checked, min_replicas=min_replicas) == seen


def test_an_unanswered_canary_is_a_failure_that_names_it() -> None:
    judgement = judge(V1.items[:1], V1, OTHERS, is_base=False)
    assert (judgement.level, judgement.detail) == (Level.FAILED, f"canary {digest('q')[:6]} was not answered")


def test_without_a_record_of_another_release_the_answer_names_which() -> None:
    missing = {BASE.release: BASE, V2.release: None}
    named = judge(V1.items, V1, missing, is_base=False, called=CALLED)
    assert (named.code, named.detail) == ("not_distinct", "there is no record of v2 to differ from")
    unnamed = judge(V1.items, V1, missing, is_base=False)
    assert unnamed.detail == f"there is no record of {V2.release[:6]} to differ from"
    base = judge(V1.items, V1, {BASE.release: None}, is_base=False, called=CALLED)
    assert base.detail == "there is no record of the base alone to differ from"
    alone = judge(V1.items, V1, {}, is_base=False)
    assert (alone.level, alone.code, bool(alone.detail)) == (Level.LISTED, "not_distinct", True)


def test_a_canary_that_the_other_release_has_no_record_of_leaves_the_next_ones_to_decide() -> None:
    assert distinct(V1.items, [item("q", [9, 9, 8])])
    assert distinct([item("new", [1]), item("q", [9])], [item("q", [8])])


def test_a_route_that_asks_for_no_replicas_is_attested_by_its_first_proof() -> None:
    assert attested(placed=1, reachable=1, checked=1, min_replicas=0) == (1, 1)
    assert attested(placed=1, reachable=0, checked=0, min_replicas=0) is None


@pytest.mark.parametrize(
    ("flipped", "proven", "listed", "level"),
    [
        (1, 1, 0, Reached.COMMITTED),
        (2, 0, 0, Reached.FLIPPED),
        (2, 1, 0, Reached.FLIPPED),
        (2, 0, 2, Reached.LISTED),
        (2, 1, 1, Reached.LISTED),
        (2, 2, 0, Reached.PROVEN),
    ],
)
def test_a_move_is_proven_only_where_every_placed_replica_is(
    flipped: int, proven: int, listed: int, level: Reached
) -> None:
    assert reached(placed=2, flipped=flipped, proven=proven, listed=listed) is level
    assert {above for above in ORDER if level.covers(above)} == set(ORDER[: ORDER.index(level) + 1])


def test_a_pointer_that_is_placed_nowhere_has_reached_nothing() -> None:
    assert reached(placed=0, flipped=0, proven=0, listed=0) is Reached.COMMITTED
