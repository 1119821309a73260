"""What the folded log answers: a tenant, a route with its settings, the pointers that an event concerns."""

from __future__ import annotations

import pytest
from tests.fleets.in_process.log import ACME, rid

from loradeck.rules.errors import Refused
from loradeck.rules.moves.chain import seal
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.ids import Role
from loradeck.schemas.log import GENESIS, Draft, Event, EventKind, PointerState
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import Gap
from loradeck.schemas.tenant import TenantState

CONFIG = RouteConfig(gap=Gap.REFUSE)
POINTER = PointerState(tenant="acme", route="production", generation=7, release=rid("v1"))
OLD = PointerState(tenant="acme", route="old", generation=2, release=rid("v1"))


@pytest.fixture
def folded() -> FoldedLog:
    acme = TenantState(name="acme", routes={"staging": RouteConfig(), "production": CONFIG})
    bolt = TenantState(name="bolt", routes={"production": RouteConfig()})
    return FoldedLog.of(epoch=2, rev=9, hash="a" * 64, pointers=(POINTER, OLD), tenants=(acme, bolt), pools={})


def event(tenant: str, route: str | None) -> Event:
    draft = Draft(kind=EventKind.ANNOTATE, tenant=tenant, route=route, actor="op1", role=Role.OPERATOR)
    return seal(draft, rev=1, id="e" * 32, txn="t" * 32, epoch=1, at_ms=1, prev_hash=GENESIS)


def test_a_route_is_found_with_its_tenant_its_settings_and_its_pointer(folded: FoldedLog) -> None:
    tenant, config, pointer = folded.route("acme", "production")
    assert (tenant, config, pointer) == (folded.tenants["acme"], CONFIG, POINTER)
    assert folded.tenant("bolt").name == "bolt"


def test_a_route_without_a_pointer_is_at_generation_0_and_a_pointer_without_settings_has_the_defaults(
    folded: FoldedLog,
) -> None:
    assert folded.route("acme", "staging")[2] == PointerState(tenant="acme", route="staging")
    assert folded.route("acme", "old")[1:] == (RouteConfig(), OLD)
    assert folded.config(("nobody", "production")) == RouteConfig()
    assert folded.pointer(ACME) == POINTER


def test_an_unknown_tenant_or_route_is_refused_with_what_there_is(folded: FoldedLog) -> None:
    with pytest.raises(Refused) as refused:
        folded.tenant("nobody")
    assert (refused.value.code, refused.value.context) == ("unknown_tenant", {"tenant": "nobody"})
    assert "'nobody'" in refused.value.title
    assert refused.value.fix == "loradeck tenant ls"
    with pytest.raises(Refused) as refused:
        folded.route("nobody", "production")
    assert refused.value.code == "unknown_tenant"
    with pytest.raises(Refused) as refused:
        folded.route("acme", "canary")
    assert refused.value.code == "unknown_route"
    assert refused.value.title == "acme has no route 'canary'"
    assert refused.value.detail == "it has: production, staging"
    assert refused.value.fix == "loradeck route set acme canary"
    folded.tenants["empty"] = TenantState(name="empty")
    with pytest.raises(Refused) as refused:
        folded.route("empty", "production")
    assert refused.value.detail == "it has: none"


def test_all_routes_are_listed_once_and_in_order_those_with_a_pointer_only_too(folded: FoldedLog) -> None:
    assert folded.routes() == [("acme", "old"), ("acme", "production"), ("acme", "staging"), ("bolt", "production")]


def test_an_event_concerns_its_route_or_all_routes_of_its_tenant(folded: FoldedLog) -> None:
    assert folded.pointers_of(event("acme", "old")) == [("acme", "old")]
    assert sorted(folded.pointers_of(event("acme", None))) == [("acme", "production"), ("acme", "staging")]
    assert folded.pointers_of(event("nobody", None)) == []
