"""Which pointers wait for a node that is ahead of the log, before its table is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from loradeck.hub.recovery.recover import Ahead, Witnesses
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.route import Pooled, RouteConfig
from loradeck.schemas.tenant import TenantState


def test_a_node_whose_table_is_not_known_holds_back_the_routes_of_its_pools_wherever_they_are_assigned() -> None:
    state = FoldedLog()
    routes = {"pool": RouteConfig(pool=Pooled(pool="eu")), "us": RouteConfig(placement={"site": "us"})}
    state.tenants["acme"] = TenantState(name="acme", routes=routes, assigned={"pool": ("n1",)})
    state.pools["eu"] = PoolConfig(labels={"site": "eu"})
    sites = {"n1": "eu", "n2": "eu", "n3": "us"}
    nodes = {name: SimpleNamespace(gateway=False, labels={"site": site}) for name, site in sites.items()}
    parts: dict[str, Any] = dict.fromkeys(("_startup", "_changes", "_background"))
    parts |= {"_store": SimpleNamespace(now=lambda call: None), "_tables": SimpleNamespace(hold=lambda held: None)}
    parts["lost"] = SimpleNamespace(holding=lambda key: [], undecided=())
    witnesses = Witnesses(_log=SimpleNamespace(state=state), _fleet=SimpleNamespace(nodes=nodes), **parts)  # type: ignore[arg-type]
    witnesses.ahead = {name: Ahead(epoch=1, rev=9) for name in nodes}
    assert witnesses.holding(("acme", "pool")) == ["n1", "n2"], "an assignment to n2 may be what the log lacks"
    assert witnesses.holding(("acme", "us")) == ["n3"]
    witnesses.ahead["n2"] = Ahead(epoch=1, rev=9, entries=())
    assert witnesses.holding(("acme", "pool")) == ["n1"]
    del state.pools["eu"]
    assert witnesses.holding(("acme", "pool")) == ["n1", "n3"]
