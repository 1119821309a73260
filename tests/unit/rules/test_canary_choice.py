"""Which prompts are proposed as canaries."""

from __future__ import annotations

from tests.fleets.in_process.log import digest, rid

from loradeck.rules.serving.canaries import PROPOSED, margins, proposed, ranked, smallest
from loradeck.schemas.attestation import CanaryItem

BASE, V1 = rid("base"), rid("v1")


def item(tokens: list[int], *clear: float) -> CanaryItem:
    return CanaryItem(prompt=digest("p"), tokens=tuple(tokens), margins=clear or (3.0,) * len(tokens))


def test_a_margin_is_the_smallest_up_to_the_first_token_that_differs_and_none_where_answers_are_alike() -> None:
    own = item([1, 2, 3], 3.0, 1.0, 0.7)
    found = margins(own, {BASE: item([1, 4], 2.0, 2.0), V1: item([1, 2, 3], 3.0, 3.0, 3.0)})
    assert found == {BASE: 1.0, V1: None}
    assert smallest(found) is None
    assert smallest({BASE: 1.0, V1: 0.8}) == 0.8
    assert smallest({}) is None


def test_prompts_that_tell_all_apart_come_first_by_their_smallest_margin() -> None:
    prompts = [{BASE: 9.0, V1: None}, {BASE: 0.6, V1: 4.0}, {BASE: 2.0, V1: 1.5}, {BASE: None, V1: None}]
    assert ranked(prompts) == [2, 1, 0, 3]
    assert proposed(prompts) == [2, 1]
    assert len(proposed([{BASE: 1.0}] * 9)) == PROPOSED


def test_where_no_prompt_tells_all_apart_several_do_so_together() -> None:
    assert proposed([{BASE: 9.0, V1: None}, {BASE: 2.0, V1: None}, {BASE: None, V1: 0.9}]) == [0, 2]


def test_where_nothing_is_told_apart_nothing_is_proposed() -> None:
    assert proposed([{BASE: None}, {BASE: None}]) == []
    assert proposed([{}]) == []
    assert proposed([]) == []
