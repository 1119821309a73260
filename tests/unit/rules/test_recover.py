"""Recover: what an older hub learns from its agents' tables."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.unit.rules.simulated_log import ACME, OPERATOR, RELEASER, Acme, SimulatedLog, digest, entry, ref, rid

from loradeck.rules.errors import Refused
from loradeck.rules.moves import backward, recover, tenants, witness
from loradeck.schemas.log import Draft, EventKind, PointerState, Quarantine
from loradeck.schemas.moves import UndoRequest
from loradeck.schemas.route import Gap, RouteConfig
from loradeck.schemas.table import TableEntry
from loradeck.schemas.tenant import CallerKey, TenantState

TENANTS = {"acme": TenantState(name="acme", routes={"production": RouteConfig()})}


def at(label: str, generation: int, *, epoch: int = 1, quarantined: Sequence[str] = ()) -> PointerState:
    return PointerState(
        tenant="acme",
        route="production",
        generation=generation,
        release=rid(label),
        moved_epoch=epoch,
        quarantined=tuple(Quarantine(release=rid(q), event="e" * 32) for q in quarantined),
    )


def recovered(pointer: PointerState, *entries: TableEntry) -> tuple[list[Draft], int]:
    return recover.drafts({ACME: pointer}, entries, tenants=TENANTS, actor=RELEASER, reason="restored")


def test_the_newest_entry_of_all_agents_wins_over_an_older_hub() -> None:
    drafts, above = recovered(
        at("v1", 38),
        entry("v3", 40, epoch=2),
        entry("v2", 41, epoch=2, beneath=["v1"]),
        entry("v1", 99, epoch=1),
    )
    (draft,) = drafts
    assert draft.pointer is not None
    assert (draft.kind, draft.pointer.release, draft.pointer.beneath) == (EventKind.RECOVER, rid("v2"), (rid("v1"),))
    assert (draft.pointer.generation, draft.expected_generation) == (42, 38)
    assert draft.payload == {"epoch": 2, "generation": 41}
    assert above == 2


def test_a_recovered_pointer_is_held_until_a_person_looked() -> None:
    (draft,), _ = recovered(at("v1", 38), entry("v2", 41, epoch=2))
    assert draft.pointer is not None
    assert draft.pointer.held


def test_an_entry_that_says_what_the_log_says_changes_nothing() -> None:
    for epoch in (1, 2, 9):
        assert recovered(at("v1", 38), entry("v1", 38, epoch=epoch)) == ([], epoch)


@pytest.mark.parametrize(("generation", "epoch"), [(37, 1), (99, 2)])
def test_an_entry_older_than_the_last_move_of_the_log_loses(generation: int, epoch: int) -> None:
    drafts, above = recovered(at("v1", 38, epoch=3 if epoch == 2 else 1), entry("v2", generation, epoch=epoch))
    assert (drafts, above) == ([], epoch)


def test_two_moves_under_one_fence_end_with_what_the_router_serves_and_a_new_number() -> None:
    (draft,), _ = recovered(at("v1", 38, epoch=2), entry("v2", 38, epoch=2))
    assert draft.pointer is not None
    assert (draft.pointer.release, draft.pointer.generation) == (rid("v2"), 39)


def test_what_a_router_serves_is_no_longer_quarantined_and_the_rest_is() -> None:
    (draft,), _ = recovered(at("v1", 38, quarantined=["v2", "v3"]), entry("v2", 41, epoch=2))
    assert draft.pointer is not None
    assert [q.release for q in draft.pointer.quarantined] == [rid("v3")]


def test_a_tombstone_is_recovered_as_nothing_live() -> None:
    (draft,), _ = recovered(at("v1", 38), entry(None, 39, epoch=2))
    assert draft.pointer is not None
    assert draft.pointer.release is None


def test_an_offboarded_tenant_is_not_brought_back() -> None:
    gone = {"acme": TENANTS["acme"].model_copy(update={"offboarded": True})}
    drafts, above = recover.drafts(
        {ACME: at("v1", 38)}, [entry("v2", 41, epoch=2)], tenants=gone, actor=RELEASER, reason="restored"
    )
    assert (drafts, above) == ([], 2)


def test_tenants_routes_and_keys_that_the_older_log_never_had_are_created_again() -> None:
    held = entry("v2", 5, epoch=2).model_copy(
        update={"gap": Gap.REFUSE, "refuse_after_s": 30.0, "suspended": True, "keys": (digest("key"),)}
    )
    staging = held.model_copy(update={"route": "staging", "generation": 2})
    drafts, _ = recover.drafts({}, [held, staging], tenants={}, actor=RELEASER, reason="restored")
    log = SimulatedLog()
    log.commit(*drafts)
    tenant = log.ledger.tenants["acme"]
    assert (tenant.suspended, [k.sha256 for k in tenant.keys]) == (True, [digest("key")])
    assert sorted(tenant.routes) == ["production", "staging"]
    assert (tenant.routes["production"].gap, tenant.routes["production"].refuse_after_s) == (Gap.REFUSE, 30.0)
    assert log.pointer().release == ref("v2").id
    assert [e.kind for e in log.events].count(EventKind.TENANT_CREATE) == 1
    assert [e.kind for e in log.events].count(EventKind.TENANT_SUSPEND) == 1


def test_a_recover_is_not_undone(acme: Acme) -> None:
    acme.promote("v1")
    drafts, _ = recover.drafts(
        acme.log.ledger.pointers, [entry("v2", 7)], tenants=TENANTS, actor=RELEASER, reason="restored"
    )
    (event,) = acme.log.commit(*drafts)
    assert acme.pointer.generation == 8
    with pytest.raises(Refused) as refusal:
        backward.undo(
            acme.log.ledger.pointers,
            [event],
            acme.log.before([event]),
            UndoRequest(event=event.id, confirmed=True, idempotency_key="undo-key-1"),
            OPERATOR,
        )
    assert refusal.value.code == "not_undoable"


@pytest.mark.parametrize(
    ("epoch", "rev", "has_hash", "behind"),
    [
        (0, 0, True, False),  # a new agent
        (3, 12, True, False),
        (2, 12, True, False),  # it has not heard of the restart yet
        (3, 12, False, True),  # it has seen an event that this log lacks
        (2, 12, False, True),
        (4, 12, True, True),  # the logs agree, but it would drop all that this hub says
        (4, 0, True, True),
    ],
)
def test_a_hub_is_behind_an_agent_that_has_seen_what_its_log_lacks(
    epoch: int, rev: int, has_hash: bool, behind: bool
) -> None:
    assert witness.lacks(epoch=epoch, rev=rev, hub_epoch=3, has_hash=has_hash) is behind


def test_the_newest_of_many_tables_is_found_whatever_their_order() -> None:
    tables = [entry("v1", 4), entry("v2", 2, epoch=2), entry("v3", 9)]
    for order in (tables, tables[::-1], tables[1:] + tables[:1]):
        assert recover.newest(order) == {ACME: tables[1]}


def test_a_tombstone_of_a_node_it_was_withdrawn_from_ends_nothing() -> None:
    """A placement that moved leaves tombstones with the fence of the move that the others serve."""
    withdrawn, live = entry(None, 39, epoch=2), entry("v2", 39, epoch=2)
    for order in ((withdrawn, live), (live, withdrawn)):
        assert recovered(at("v2", 39, epoch=2), *order) == ([], 2)
        (draft,), _ = recovered(at("v1", 38), *order)
        assert draft.pointer is not None
        assert draft.pointer.release == rid("v2")
    assert recovered(at("v2", 39, epoch=2), withdrawn) == ([], 2)


def test_keys_suspension_and_settings_of_the_lost_part_hold_for_tenants_that_the_log_knows() -> None:
    keys = (CallerKey(id="k1", sha256=digest("withdrawn")), CallerKey(id="k2", sha256=digest("kept")))
    known = TENANTS["acme"].model_copy(update={"keys": keys, "routes": {"production": RouteConfig(min_replicas=3)}})
    update = {"keys": (digest("kept"), digest("new")), "suspended": True, "gap": Gap.REFUSE}
    newer = entry("v1", 38).model_copy(update=update)
    older = entry("v1", 38).model_copy(update={"keys": (digest("withdrawn"),)})
    drafts, _ = recover.drafts(
        {ACME: at("v1", 38)},
        [newer, older],
        tenants={"acme": known},
        actor=RELEASER,
        reason="restored",
        ahead=[newer, older],
    )
    log = SimulatedLog()
    log.commit(tenants.create({}, "acme", RELEASER))
    log.ledger.tenants["acme"] = known
    log.commit(*drafts)
    tenant = log.ledger.tenants["acme"]
    assert {key.sha256 for key in tenant.keys} == {digest("kept"), digest("new")}
    assert tenant.suspended
    assert (tenant.routes["production"].gap, tenant.routes["production"].min_replicas) == (Gap.REFUSE, 3)
    assert len(drafts) == 4

    same, _ = recover.drafts(
        {ACME: at("v1", 38)}, [newer], tenants={"acme": tenant}, actor=RELEASER, reason="restored", ahead=[newer]
    )
    assert same == []
    resumed = newer.model_copy(update={"suspended": False})
    drafts, _ = recover.drafts(
        {ACME: at("v1", 38)}, [newer], tenants={"acme": tenant}, actor=RELEASER, reason="restored", ahead=[resumed]
    )
    assert [draft.kind for draft in drafts] == [EventKind.TENANT_RESUME]


def test_a_table_that_the_log_has_seen_says_nothing_of_keys() -> None:
    known = TENANTS["acme"].model_copy(update={"keys": (CallerKey(id="k1", sha256=digest("key")),)})
    drafts, _ = recover.drafts(
        {ACME: at("v1", 38)}, [entry("v1", 38)], tenants={"acme": known}, actor=RELEASER, reason="restored"
    )
    assert drafts == []
