"""What is kept, and where a route's releases belong."""

from __future__ import annotations

import pytest
from tests.fleets.in_process.log import ACME, digest

from loradeck.rules.serving.placement import ANYWHERE, belongs, fits, site_of
from loradeck.rules.serving.retention import collectable, roots
from loradeck.schemas.candidate import Candidate
from loradeck.schemas.log import PointerState, Quarantine
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.route import Pooled, RouteConfig
from loradeck.schemas.tenant import TenantState

LIVE, UNDER, BAD = digest("live"), digest("under"), digest("bad")
ATTESTED = tuple(digest(f"attested {i}") for i in range(5))
POINTER = PointerState(
    tenant="acme",
    route="production",
    generation=5,
    release=LIVE,
    beneath=(UNDER,),
    quarantined=(Quarantine(release=BAD, event="e" * 32),),
)


def test_the_live_one_all_beneath_the_last_attested_and_the_quarantined_are_kept() -> None:
    assert roots([POINTER], {ACME: ATTESTED}) == {LIVE, UNDER, BAD, *ATTESTED[:3]}


def test_a_candidate_is_kept() -> None:
    out = POINTER.model_copy(
        update={"candidate": Candidate(release=digest("candidate"), permille=100, salt="5a17" * 4, generation=5)}
    )
    assert roots([out], {}) == {*roots([POINTER], {}), digest("candidate")}


def test_what_an_undo_returns_to_and_what_something_else_holds_on_to_are_kept() -> None:
    before = POINTER.model_copy(update={"release": digest("before"), "beneath": (digest("below"),)})
    kept = roots([POINTER], {}, before=[before], also=[digest("pinned")])
    assert {digest("before"), digest("below"), digest("pinned")} <= kept


def test_a_pointer_without_a_release_keeps_what_it_has() -> None:
    assert roots([POINTER.model_copy(update={"release": None, "quarantined": ()})], {}) == {UNDER}


def test_nothing_that_an_engine_lists_is_collected() -> None:
    everything = {LIVE, UNDER, digest("old"), digest("listed")}
    assert collectable(everything, roots([POINTER], {}), [digest("listed")]) == {digest("old")}


@pytest.mark.parametrize(
    ("labels", "placement", "fit"),
    [
        ({}, {}, True),
        ({"site": "eu-1"}, {}, True),
        ({"site": "eu-1", "gpu": "h100"}, {"site": "eu-1"}, True),
        ({"site": "eu-2"}, {"site": "eu-1"}, False),
        ({}, {"site": "eu-1"}, False),
        ({"site": ""}, {"site": ""}, True),
    ],
)
def test_a_node_fits_if_it_carries_every_label_asked_for(
    labels: dict[str, str], placement: dict[str, str], fit: bool
) -> None:
    assert fits(labels, placement) is fit


def test_a_route_is_placed_by_its_labels_or_in_a_pool_where_it_is_assigned() -> None:
    tenant = TenantState(
        name="acme",
        routes={"eu": RouteConfig(placement={"site": "eu"}), "pool": RouteConfig(pool=Pooled(pool="all"))},
        assigned={"pool": ("n1", "n2")},
    )
    assert [site_of(tenant, "eu").holds(name, {"site": site}) for name, site in (("n1", "eu"), ("n1", "us"))] == [
        True,
        False,
    ]
    assert [site_of(tenant, "pool").holds(name, {"site": "eu"}) for name in ("n1", "n2", "n3")] == [True, True, False]
    assert site_of(tenant, "new") == ANYWHERE
    nowhere = tenant.model_copy(update={"assigned": {}})
    assert not site_of(nowhere, "pool").holds("n1", {"site": "eu"})


@pytest.mark.parametrize(
    ("pool", "is_of_it"),
    [
        (PoolConfig(), True),
        (PoolConfig(labels={"site": "eu"}, base=digest("base"), hardware="h100"), True),
        (PoolConfig(labels={"site": "us"}), False),
        (PoolConfig(base=digest("another")), False),
        (PoolConfig(hardware="A100"), False),
    ],
)
def test_an_engine_is_of_a_pool_by_labels_base_and_device(pool: PoolConfig, is_of_it: bool) -> None:
    assert belongs(pool, {"site": "eu", "rack": "7"}, digest("base"), "NVIDIA H100 80GB") is is_of_it
    assert not belongs(pool, {"site": "eu"}, None, "NVIDIA H100 80GB"), "it runs nothing"
