"""Rows of a large fleet: packed and opened unchanged, counted as they come, and never gone through for a key."""

from __future__ import annotations

import gc

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Clock
from tests.unit.tui.conftest import put

from loradeck.schemas.feed import FeedNodes, FeedTenants
from loradeck.schemas.state import TenantRow
from loradeck.tui.model import lists, packed_rows
from loradeck.tui.model.packed_rows import TenantRows, node_rows, tenant_rows
from loradeck.tui.model.state import ConsoleState


def renamed(row: TenantRow, tenant: str, **fields: object) -> TenantRow:
    return row.model_copy(update={"tenant": tenant, **fields})


@pytest.fixture
def many() -> list[TenantRow]:
    """Three times as many rows as are held open, each with something of its own."""
    some = seed.hub_state().tenants
    return [
        renamed(some[n % len(some)], f"t{n:04}", requests_per_s=float(n), left_answered=n)
        for n in range(3 * packed_rows.OPEN)
    ]


def filled(many: list[TenantRow]) -> TenantRows:
    held = tenant_rows()
    for row in many:
        held[row.key] = row
    return held


def test_a_row_that_was_packed_is_opened_as_it_was(many: list[TenantRow]) -> None:
    held = filled(many)
    assert [held[row.key] for row in many] == many
    assert list(held) == [row.key for row in many]
    assert len(held._open) == packed_rows.OPEN


def test_only_rows_that_are_looked_at_or_were_read_are_held_open(many: list[TenantRow]) -> None:
    held = tenant_rows()
    held.near = {many[0].key}
    for row in many:
        held[row.key] = row
    assert list(held._open) == [many[0].key]
    read = held[many[1].key]
    held[many[1].key] = changed = read.model_copy(update={"requests_per_s": 4711.0})
    assert list(held._open) == [many[0].key, many[1].key]
    assert held[many[1].key] is changed


def test_rows_that_the_hub_was_asked_for_stay_open_over_a_new_list(state: ConsoleState) -> None:
    listed = seed.hub_state()
    row, node = listed.tenants[0], listed.nodes[0]
    state.ask_for([row.key], [node.node])
    list(state.loading(listed))
    state.apply(FeedTenants(rows=listed.tenants))
    state.apply(FeedNodes(rows=listed.nodes))
    assert (list(state.tenants._open), list(state.nodes._open)) == ([row.key], [node.node])


def test_a_row_that_changes_while_it_is_packed_is_not_opened_as_it_was_before(many: list[TenantRow]) -> None:
    held = filled(many)
    first = many[0].model_copy(update={"requests_per_s": 4711.0})
    held[first.key] = first
    for row in many[1:]:
        held[row.key] = row
    assert held[first.key] == first


def test_what_the_list_adds_up_to_follows_rows_that_come_change_and_go(many: list[TenantRow]) -> None:
    held = filled(many)
    bad = sum("BAD" in row.flags for row in many)
    assert (held.counts.bad, held.counts.need + held.counts.empty + held.counts.fine) == (bad, len(many))
    fine = next(row for row in many if not row.flags)
    held[fine.key] = fine.model_copy(update={"flags": ("BAD", "NOPRIOR")})
    assert held.counts.bad == bad + 1
    del held[fine.key]
    assert (held.counts.bad, held.counts.need + held.counts.empty + held.counts.fine) == (bad, len(many) - 1)
    for row in many[:]:
        held.pop(row.key, None)
    assert (held.counts.bad, held.counts.need, held.counts.fine, held.counts.live) == (0, 0, 0, {})


def test_where_a_release_is_live_follows_its_rows(many: list[TenantRow]) -> None:
    row = next(row for row in many if row.live is not None)
    assert row.live is not None
    held = tenant_rows()
    held[row.key] = row
    staging = row.model_copy(update={"route": "staging"})
    held[staging.key] = staging
    assert held.counts.live[row.live.id] == (row.route, "staging")
    held[row.key] = row.model_copy(update={"live": None})
    assert held.counts.live[row.live.id] == ("staging",)


def test_nodes_are_counted_as_they_come_and_go() -> None:
    held = node_rows()
    nodes = seed.hub_state().nodes
    for node in nodes:
        held[node.node] = node
    assert held.counts.up == sum(node.linked and not node.lost for node in nodes)
    assert held.counts.lost == sum(node.lost for node in nodes) > 0
    assert held.counts.gpus == sum(len(node.gpus) for node in nodes)
    lost = next(node for node in nodes if not node.lost and node.linked)
    held[lost.node] = lost.model_copy(update={"lost": True})
    assert held.counts.lost == sum(node.lost for node in nodes) + 1


def test_figures_that_tick_sort_nothing_again(
    state: ConsoleState, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.arrange()
    monkeypatch.setattr(lists, "attention", lambda *_: pytest.fail("sorted again"))
    row = state.tenants["delta", "production"]
    put(state, row.model_copy(update={"requests_per_s": 99.0, "bad_now": 0.001}))
    state.arrange()
    monkeypatch.undo()
    put(state, row.model_copy(update={"flags": ("BAD",)}))
    clock.now += 3
    state.arrange()
    assert state.tenant_list.order.index(row.key) < 3


def test_what_came_while_the_order_was_frozen_is_sorted_when_it_thaws(state: ConsoleState, clock: Clock) -> None:
    state.arrange()
    state.touched()
    row = state.tenants["delta", "production"].model_copy(update={"flags": ("BAD",)})
    before = list(state.tenant_list.order)
    put(state, row)
    state.arrange()
    assert state.tenant_list.order == before
    clock.now += 3
    state.arrange()
    assert state.tenant_list.order.index(row.key) < 3


def test_a_list_is_taken_in_by_steps_and_replaces_the_rows_at_the_end(state: ConsoleState) -> None:
    listed = seed.hub_state()
    acme = listed.tenants[0]
    larger = listed.model_copy(update={"tenants": tuple(renamed(acme, f"t{n:03}") for n in range(200))})
    before = set(state.tenants)
    steps = 0
    for _ in state.loading(larger):
        assert set(state.tenants) == before
        steps += 1
    assert steps >= 5
    assert len(state.tenants) == 200


def test_names_of_releases_do_not_pile_up(state: ConsoleState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loradeck.tui.model.feed_state.VIEWS_KEPT", 50)
    row = state.tenants["delta", "production"]
    for n in range(200):
        put(state, row.model_copy(update={"live": seed.view("delta", f"v{n}")}))
    assert len(state._views) == 50
    assert len(state._owners) <= 50 + 10
    assert state.name_of(seed.view("delta", "v199").id) == "v199/B2"


def test_what_stays_of_a_list_is_not_gone_through_by_the_collector_again() -> None:
    held = filled(list(seed.hub_state().tenants))
    packed_rows.freeze_large_list()
    assert not any(one is held for one in gc.get_objects())
    packed_rows.freeze_large_list()
    assert len(held) == len(seed.hub_state().tenants)


def test_ten_thousand_rows_moved_at_once_stay_packed(state: ConsoleState, many: list[TenantRow]) -> None:
    opened = len(state.tenants._open)
    state.apply(FeedTenants(rows=tuple(many)))
    assert len(state.tenants._open) == opened
    packed = sum(len(text) for text in state.tenants._packed.values()) / len(state.tenants._packed)
    assert packed < len(many[0].model_dump_json()) / 4
