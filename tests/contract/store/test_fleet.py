"""What is kept of the nodes: their own state, and the pointers that were withdrawn from them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.store.conftest import Backend
from tests.contract.store.drafts import move

from loradeck.store.interface import FleetChange, LeaseLost, Moved, Withdrawal
from loradeck.store.sql_log import Store

ACME = ("acme", "production")
LEFT = Withdrawal(node="n1", tenant="acme", route="production", rev=3, refuse_after_s=30.0)


def test_nodes_and_withdrawals_are_replaced_and_end(store: Store) -> None:
    other = Withdrawal(node="n2", tenant="acme", route="production", rev=4)
    nodes: dict[str, dict[str, Any] | None] = {"n1": {"labels": {"site": "eu"}}, "n2": {"labels": {}}}
    store.save_fleet(FleetChange(nodes=nodes, withdrawals={("n1", ACME): LEFT, ("n2", ACME): other}))
    assert store.nodes() == nodes
    assert store.withdrawals() == [LEFT, other]
    store.save_fleet(FleetChange(nodes={"n1": {"labels": {}}, "n2": None}, withdrawals={("n1", ACME): None}))
    assert store.nodes() == {"n1": {"labels": {}}}
    assert store.withdrawals() == [other]


def test_what_a_commit_changes_of_the_nodes_is_committed_with_it_or_not_at_all(store: Store) -> None:
    change = FleetChange(withdrawals={("n1", ACME): LEFT})
    with pytest.raises(Moved):
        store.commit([move("acme", to=1, generation=7)], key="key-0001", fleet=change)
    assert store.withdrawals() == []
    store.commit([move("acme", to=1, generation=1)], key="key-0002", fleet=change)
    assert store.withdrawals() == [LEFT]


def test_a_hub_that_lost_the_lease_writes_nothing_about_nodes(store_factory: Backend) -> None:
    store = store_factory.open()
    store_factory.usurp()
    with pytest.raises(LeaseLost):
        store.save_fleet(FleetChange(nodes={"n1": {}}))
    assert store.nodes() == {}
