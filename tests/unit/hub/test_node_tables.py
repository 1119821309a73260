"""The messages that all nodes of one table share."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from nacl.signing import SigningKey

from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.log.signing import Signing
from loradeck.rules.moves.rollback_target import NO_FACTS
from loradeck.schemas.candidate import Candidate
from loradeck.schemas.link import Desired
from loradeck.schemas.log import PointerState
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.route import Pooled, RouteConfig
from loradeck.schemas.table import ReleaseRef, RouteResidency, TableEntry, table_digest
from loradeck.schemas.tenant import TenantState

KEY = ("acme", "production")
RELEASES = {
    made.id: ReleaseRef(id=made.id, release=made)
    for made in (Release(tenant="acme", form=Form.ADAPTER, base="b" * 64, adapter=one * 64) for one in "12")
}
LIVE, OTHER = RELEASES


def body(frame: bytes) -> dict[str, Any]:
    """The JSON of a short text frame."""
    found: dict[str, Any] = json.loads(frame[frame.index(b"{") :])
    return found


def test_a_message_of_an_earlier_epoch_is_not_sent_again_after_a_recover() -> None:
    tables = NodeTables(None, None, None)  # type: ignore[arg-type]  # without an entry nothing is looked up
    table = tables.table({})
    sent = [
        body(tables.desired(table, epoch=epoch, rev=rev, hash_="0" * 64, position=None, prev_rev=0, keys=None))
        for epoch, rev in ((1, 7), (2, 7), (2, 8))
    ]
    assert [(one["epoch"], one["rev"]) for one in sent] == [(1, 7), (2, 7), (2, 8)]


def with_candidate(**settings: Any) -> NodeTables:
    catalogue, facts = SimpleNamespace(ref=RELEASES.get), SimpleNamespace(of=lambda key: NO_FACTS, deprecated={})
    tables = NodeTables(catalogue, facts, Signing("log", {}, (), SigningKey.generate()))  # type: ignore[arg-type]
    candidate = Candidate(release=OTHER, generation=2, step=1, permille=50, salt="s" * 16, named=("ann",))
    pointer = PointerState(tenant="acme", route="production", generation=2, release=LIVE, candidate=candidate)
    tables.refresh(pointer, TenantState(name="acme", routes={"production": RouteConfig(**settings)}), 1, None)
    return tables


def entry_for(tables: NodeTables, features: frozenset[str], labels: dict[str, str] | None = None) -> TableEntry:
    table = tables.table(labels or {})
    frame = tables.desired(
        table, epoch=1, rev=2, hash_="0" * 64, position=None, prev_rev=0, keys=None, features=features
    )
    message = body(frame)
    (entry,) = Desired.model_validate(message).entries
    assert table_digest([entry]) == message["table"], "whatever the router lacks, its node's table is the hub's"
    return entry


def test_an_entry_has_the_candidate_of_its_pointer_and_needs_the_feature() -> None:
    entry = entry_for(with_candidate(), frozenset({"candidate", "more"}))
    assert entry.needs == ("candidate",)
    assert entry.candidate is not None
    assert entry.candidate.release == RELEASES[OTHER]
    assert (entry.candidate.generation, entry.candidate.step, entry.candidate.permille) == (2, 1, 50)
    assert (entry.candidate.named, entry.refs) == (("ann",), (RELEASES[LIVE], RELEASES[OTHER]))


def test_a_router_that_lacks_the_feature_gets_the_entry_without_the_candidate() -> None:
    tables = with_candidate()
    entry = entry_for(tables, frozenset())
    assert (entry.candidate, entry.needs) == (None, ())
    assert (entry.fence, entry.current) == ((0, 2), RELEASES[LIVE])
    assert entry_for(tables, frozenset({"candidate"})).candidate is not None, "and others are sent it all the same"


def test_a_router_that_lacks_on_demand_loads_first_and_one_that_lacks_candidates_still_flips_at_once() -> None:
    tables = with_candidate(residency="on-demand")
    given = {
        features: (entry.residency, entry.candidate is not None, entry.needs)
        for features in (("candidate", "on_demand"), ("candidate",), ("on_demand",), ())
        for entry in (entry_for(tables, frozenset(features)),)
    }
    always, on_demand = RouteResidency.ALWAYS, RouteResidency.ON_DEMAND
    assert given == {
        ("candidate", "on_demand"): (on_demand, True, ("candidate", "on_demand")),
        ("candidate",): (always, True, ("candidate",)),
        ("on_demand",): (on_demand, False, ("on_demand",)),
        (): (always, False, ()),
    }


def test_a_node_that_is_ahead_and_has_an_earlier_router_now_gets_its_own_entry_without_what_that_lacks() -> None:
    tables = with_candidate(residency="on-demand")
    tables.hold({"n1": [tables.entries[KEY]]})
    frame = tables.desired(
        tables.table({}, "n1"),
        epoch=1,
        rev=2,
        hash_="0" * 64,
        position=None,
        prev_rev=0,
        keys=None,
        features=frozenset(),
        signed=False,
    )
    (entry,) = Desired.model_validate(body(frame)).entries
    assert (entry.needs, entry.candidate, entry.residency) == ((), None, RouteResidency.ALWAYS)


def test_a_tombstone_names_no_candidate_and_needs_no_feature() -> None:
    gone = with_candidate().entries[KEY].tombstone()
    assert (gone.current, gone.candidate, gone.needs, gone.refs) == (None, None, (), ())
    assert gone.fence == (0, 2)


def test_a_tombstone_names_the_nodes_that_serve_the_pointer_now() -> None:
    tables = with_candidate()
    table = tables.table({})
    table.put(KEY, placed=False)
    sent = {"epoch": 1, "rev": 2, "hash_": "0" * 64, "position": None, "prev_rev": 0, "keys": None}
    for now in ((), ("n2", "n3"), ("n4",)):
        tables.elsewhere = lambda key, now=now: now if key == KEY else ()
        tables.forget_messages()
        (entry,) = Desired.model_validate(body(tables.desired(table, **sent))).entries
        assert (entry.current, entry.elsewhere) == (None, now)


def test_a_route_of_a_pool_is_in_the_tables_of_its_nodes_alone_and_a_tombstone_where_it_was() -> None:
    tables = with_candidate()
    pointer = PointerState(tenant="acme", route="production", generation=2, release=LIVE)
    pooled = RouteConfig(pool=Pooled(pool="all"))

    def assign(*nodes: str) -> None:
        tenant = TenantState(name="acme", routes={"production": pooled}, assigned={"production": nodes})
        tables.refresh(pointer, tenant, 2, None)

    def placed(*nodes: str) -> list[bool]:
        return [KEY in tables.placed(tables.table({}, node)) for node in nodes]

    assign("n1", "n2")
    assert placed("n1", "n2", "n3", "") == [True, True, False, False]
    assert tables.table({}, "n3") is tables.table({}, "n4"), "who was never assigned anything shares one table"
    held = tables.table({}, "n1")
    assign("n2", "n3")
    tables.withdraw(tables.table({}, "n1"), held.members)
    assert placed("n1", "n2", "n3") == [False, True, True]
    assert KEY in tables.table({}, "n1").withdrawn
    assert KEY in tables.placed(tables.table(None)), "gateways are told of it wherever it is"
