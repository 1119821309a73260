"""Loosening: what takes something away of a route's signers and gate, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.errors import Refused
from loradeck.rules.moves import tenants
from loradeck.rules.moves.draft import Actor
from loradeck.rules.quality.break_glass import BROKE
from loradeck.rules.quality.loosening import loosened, moves_anchor, needs_two
from loradeck.schemas.candidate import Figure
from loradeck.schemas.gate import CompareGate, GateConfig, ReviewGate, SuiteGate
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Draft, PointerState
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.tenant import TenantState

SUITES = ("a" * 64, "b" * 64)
SHARE = st.sampled_from([0.0, 0.5, 0.9])
PARTS = st.builds(
    SuiteGate,
    suite=st.just(SUITES[1]),
    min_exact=SHARE,
    min_valid=SHARE,
    bound=st.booleans(),
    max_drop=st.sampled_from([0.05, 0.5, 0.9]),
    bound_drop=st.booleans(),
    canaries=st.booleans(),
    choice=st.sampled_from(["acc", "acc_norm"]),
    min_slice=st.none() | st.sampled_from([5, 40]),
    max_p95_ms=st.none() | st.sampled_from([100.0, 200.0]),
)
REVIEWS = st.builds(ReviewGate, items=st.integers(1, 3), max_bad=st.integers(0, 2), people=st.integers(1, 2))
COMPARES = st.builds(
    CompareGate,
    figure=st.sampled_from(Figure),
    margin=st.sampled_from([0.02, 0.05]),
    keys=st.sampled_from([20, 50]),
    route=st.none() | st.just("staging"),
)
GATES = st.builds(
    GateConfig,
    suite=st.just(SUITES[0]),
    min_exact=SHARE,
    max_drop=SHARE,
    also=st.lists(PARTS, max_size=1).map(tuple),
    after=st.none() | st.sampled_from(["staging", "development"]),
    review=st.none() | REVIEWS,
    compare=st.none() | COMPARES,
    max_age_days=st.sampled_from([0, 30, 90]),
)
CONFIGS = st.builds(
    RouteConfig, gate=st.none() | GATES, signers=st.lists(st.sampled_from(["k1", "k2"]), unique=True).map(tuple)
)


@given(CONFIGS)
def test_settings_that_stay_loosen_nothing(config: RouteConfig) -> None:
    assert loosened(config, config) == ()


@given(CONFIGS)
def test_what_is_added_to_a_bare_route_loosens_nothing_and_taking_it_away_does(config: RouteConfig) -> None:
    bare = RouteConfig()
    assert loosened(bare, config) == ()
    assert bool(loosened(config, bare)) is bool(config.gate or config.signers)


@given(CONFIGS, CONFIGS)
def test_a_change_between_gates_loosens_one_way_or_the_other_or_changes_no_bar(
    one: RouteConfig, other: RouteConfig
) -> None:
    if not loosened(one, other) and not loosened(other, one):
        assert (one.gate is None) is (other.gate is None)
        assert set(one.signers) == set(other.signers)
        if one.gate is not None and other.gate is not None:
            assert {part.suite: part.min_exact for part in one.gate.suites} == {
                part.suite: part.min_exact for part in other.gate.suites
            }
            assert (one.gate.review, one.gate.after) == (other.gate.review, other.gate.after)


@given(CONFIGS, CONFIGS, CONFIGS)
def test_two_changes_that_loosen_nothing_loosen_nothing_together(
    a: RouteConfig, b: RouteConfig, c: RouteConfig
) -> None:
    if not loosened(a, b) and not loosened(b, c):
        assert loosened(a, c) == ()


@given(CONFIGS)
def test_an_anchor_is_moved_by_another_one_and_by_no_gate_and_stays_otherwise(one: RouteConfig) -> None:
    assert not moves_anchor(one, None)
    assert moves_anchor(RouteConfig(), SUITES[0])
    if one.gate is not None:
        same = one.model_copy(update={"gate": one.gate.model_copy(update={"anchor": SUITES[0]})})
        moved = one.model_copy(update={"gate": one.gate.model_copy(update={"anchor": SUITES[1]})})
        assert (moves_anchor(same, SUITES[0]), moves_anchor(moved, SUITES[0])) == (False, True)
        assert loosened(same, moved, SUITES[0]) == ("gate with the anchor bbbbbb in place of aaaaaa",)


@given(CONFIGS)
def test_a_route_asks_for_two_where_its_review_does(config: RouteConfig) -> None:
    assert needs_two(config) is (
        config.gate is not None and config.gate.review is not None and config.gate.review.people == 2
    )


BOB = Actor(name="bob", role=Role.RELEASER, token="t1")
HOST = Actor(name="root", role=Role.RELEASER, local=True)
REVIEWED = RouteConfig(
    signers=("k1",), gate=GateConfig(suite=SUITES[0], min_exact=0.9, review=ReviewGate(items=1, max_bad=0, people=2))
)


def unsigned(config: RouteConfig, actor: Actor = BOB, **more: Any) -> Draft:
    """The draft that takes the signers of a route away."""
    tenant = TenantState(name="acme", routes={"production": config})
    pointer = PointerState(tenant="acme", route="production")
    after = config.model_copy(update={"signers": ()})
    return tenants.set_route(tenant, "production", after, actor, pointer=pointer, **more)


def test_who_loosens_a_route_says_why() -> None:
    alone = REVIEWED.model_copy(update={"gate": None})
    with pytest.raises(Refused, match="reason_required"):
        unsigned(alone)
    draft = unsigned(alone, reason="the key is lost")
    assert draft.payload["loosened"] == ["no signers"]
    assert "agreed" not in draft.payload


def test_a_route_that_asks_for_two_is_loosened_by_two_or_alone_on_the_hubs_host() -> None:
    with pytest.raises(Refused, match="second_person") as refusal:
        unsigned(REVIEWED, reason="the key is lost")
    assert refusal.value.detail == "no signers"
    assert unsigned(REVIEWED, reason="the key is lost", agreed="ann").payload["agreed"] == "ann"
    with pytest.raises(Refused, match="local_only"):
        unsigned(REVIEWED, reason="the key is lost", alone=True)
    assert unsigned(REVIEWED, HOST, reason="the key is lost", alone=True).payload[BROKE] is True
