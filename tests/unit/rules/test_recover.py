"""Recover: what an older hub learns from its agents' tables."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fleets.in_process.log import ACME, OPERATOR, RELEASER, Acme, SimulatedLog, digest, entry, ref, rid

from loradeck.rules.errors import Refused
from loradeck.rules.moves import recover, rollbacks, tenants, witness
from loradeck.rules.moves.draft import drafted
from loradeck.rules.serving import flip
from loradeck.schemas.log import MOVES, Draft, EventKind, PointerState, Quarantine
from loradeck.schemas.moves import RecoveryNode, RecoveryPlan, UndoRequest
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import Gap, TableEntry
from loradeck.schemas.tenant import CallerKey, TenantState

TENANTS = {"acme": TenantState(name="acme", routes={"production": RouteConfig()})}


@pytest.mark.parametrize(
    ("label", "number"),
    [
        ("v7", 7),
        ("v12m", 12),
        ("v0", 0),
        *((label, None) for label in ("7", "V7", "v", "vm", "v7x", "v-7", "v1234567890", "v\u0663", "base")),
    ],
)
def test_the_number_of_a_version_is_read_from_labels_of_versions_only(label: str, number: int | None) -> None:
    assert recover.version_of(label) == number


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
    assert recovered(at("v1", 38), entry("v1", 38)) == ([], 1)


def test_a_later_move_to_the_same_release_is_recovered_under_a_fence_that_its_router_takes() -> None:
    """What was found: the log kept its lower fence, which no router goes back to, and the flip was never counted."""
    (draft,), above = recovered(at("v1", 38), entry("v1", 38, epoch=2))
    assert draft.pointer is not None
    assert (draft.pointer.release, draft.pointer.generation, above) == (rid("v1"), 39, 2)


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
        rollbacks.undo(
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


# ---- what is dropped -----------------------------------------------------------------------------------------


def known_to(log: SimulatedLog) -> witness.KnowsMove:
    return witness.known_to({move for event in log.events for move in witness.moves_of(event)})


def recover_from(log: SimulatedLog, tables: dict[str, list[TableEntry]]) -> tuple[list[Draft], int]:
    return recover.drafts(
        log.ledger.pointers,
        [entry for entries in tables.values() for entry in entries],
        tenants=TENANTS,
        actor=RELEASER,
        reason="restored",
        lacking=witness.lacking(tables, known_to(log)),
    )


def test_a_move_that_the_log_has_passed_is_dropped_with_a_line(acme: Acme) -> None:
    acme.promote("v1")
    acme.log.epoch = 2
    acme.promote("v2")
    drafts, _ = recover_from(acme.log, {"n1": [entry("v3", 2)], "n2": [entry("v1", 1)], "n3": [entry("v3", 2)]})
    (draft,) = drafts
    assert (draft.kind, draft.tenant, draft.route, draft.pointer) == (EventKind.DROPPED, *ACME, None)
    assert draft.payload == {"epoch": 1, "generation": 2, "release": rid("v3"), "nodes": ["n1", "n3"]}
    (event,) = acme.log.commit(*drafts)
    assert event.to_release == rid("v3")
    assert acme.pointer.release == rid("v2")


def test_of_two_moves_of_cloned_hubs_under_one_fence_one_is_adopted_and_the_other_dropped(acme: Acme) -> None:
    acme.promote("v1")
    drafts, _ = recover_from(acme.log, {"n1": [entry("v2", 2)], "n2": [entry("v3", 2)]})
    assert [(draft.kind, draft.payload["nodes"]) for draft in drafts] == [
        (EventKind.RECOVER, ["n1"]),
        (EventKind.DROPPED, ["n2"]),
    ]


@pytest.mark.parametrize("fork_first", [False, True])
def test_a_move_of_the_log_under_the_fence_of_a_cloned_hubs_gets_a_number_that_all_routers_take(
    acme: Acme, fork_first: bool
) -> None:
    """What was found: where the log's own node was heard first, the other's router kept its release for ever."""
    acme.promote("v1")
    ours, theirs = [entry("v1", 1)], [entry("v2", 1)]
    drafts, _ = recover_from(acme.log, {"n1": theirs, "n2": ours} if fork_first else {"n1": ours, "n2": theirs})
    acme.log.epoch = 2
    acme.log.commit(*drafts)
    taken = entry("v2" if fork_first else "v1", acme.pointer.generation, epoch=acme.pointer.moved_epoch)
    assert acme.pointer.release == (taken.current.id if taken.current is not None else None)
    assert [flip.decide(held, taken, True, None) for held in (*ours, *theirs)] == [flip.Verdict.FLIP] * 2
    dropped = [draft.payload["release"] for draft in drafts if draft.kind is EventKind.DROPPED]
    assert dropped == ([] if fork_first else [rid("v2")])


def test_a_tombstone_of_a_known_move_is_no_move_and_one_of_an_unknown_move_is(acme: Acme) -> None:
    acme.promote("v1")
    acme.promote("v2")
    assert witness.lacking({"n1": [entry(None, 1)], "n2": [entry(None, 2)]}, known_to(acme.log)) == []
    beside = witness.lacking({"n1": [entry(None, 3)], "n2": [entry("v3", 3)]}, known_to(acme.log))
    assert [(move.release, move.nodes) for move in beside] == [(rid("v3"), ("n2",))]
    alone = witness.lacking({"n1": [entry(None, 3)]}, known_to(acme.log))
    assert [(move.fence, move.release) for move in alone] == [((1, 3), None)]


held = st.builds(
    lambda label, generation, epoch: entry(label, generation, epoch=epoch),
    st.sampled_from(["v1", "v2", "v3", None]),
    st.integers(1, 6),
    st.integers(1, 4),
)


@given(
    moves=st.lists(st.tuples(st.sampled_from(["v1", "v2", "v3"]), st.booleans()), max_size=5),
    tables=st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), st.lists(held, max_size=2)),
)
@example(moves=[("v1", False)], tables={"n1": [entry("v1", 1)], "n2": [entry("v2", 1)]})
def test_no_move_that_a_node_has_seen_is_gone_without_a_line_and_each_is_told_once(
    moves: list[tuple[str, bool]], tables: dict[str, list[TableEntry]]
) -> None:
    log = SimulatedLog()
    log.commit(tenants.create({}, "acme", RELEASER))
    for release, restarted in moves:
        log.epoch += restarted
        before = log.pointer()
        after = before.model_copy(update={"generation": before.generation + 1, "release": rid(release)})
        log.commit(drafted(EventKind.PROMOTE, before, after, RELEASER, reason=""))
    drafts, above = recover_from(log, tables)
    log.epoch = max(above, log.epoch) + 1
    log.commit(*drafts)
    assert witness.lacking(tables, known_to(log)) == []
    assert recover_from(log, tables)[0] == []
    for one in (held for entries in tables.values() for held in entries):
        fence = (log.pointer().moved_epoch, log.pointer().generation)
        served = one.current.id if one.current is not None else None
        assert fence > one.fence or (fence, log.pointer().release) == (one.fence, served) or served is None
    assert len([draft for draft in drafts if draft.kind in MOVES]) <= 1


# ---- the plan ------------------------------------------------------------------------------------------------


def plan_of(log: SimulatedLog, tables: dict[str, list[TableEntry]], *, silent: str = "n9") -> RecoveryPlan:
    drafts, above = recover_from(log, tables)
    nodes = [RecoveryNode(node=silent, state="silent", behind="log_behind")]
    name = {rid(label): label for label in ("v1", "v2", "v3")}
    return recover.plan(
        drafts,
        above,
        now=log.ledger.pointers,
        nodes=nodes,
        rev=log.ledger.rev,
        name=lambda release: name.get(release or "", "-"),
    )


def test_a_plan_names_both_sides_and_every_witness(acme: Acme) -> None:
    acme.promote("v1")
    plan = plan_of(acme.log, {"n1": [entry("v2", 2, epoch=3)], "n2": [entry("v3", 2)]})
    (step,) = plan.steps
    assert (step.tenant, step.route, step.label, step.generation) == (*ACME, "v1", 1)
    assert step.adopted is not None
    assert (step.adopted.label, step.adopted.epoch, step.adopted.nodes) == ("v2", 3, ("n1",))
    (dropped,) = step.dropped
    assert (dropped.label, dropped.nodes, dropped.why) == ("v3", ("n2",), "a newer one is adopted")
    assert plan.epoch_above == 3


def test_the_digest_of_a_plan_is_of_what_it_would_do(acme: Acme) -> None:
    acme.promote("v1")
    tables = {"n1": [entry("v2", 2, epoch=3)]}
    digest_ = plan_of(acme.log, tables).digest
    assert plan_of(acme.log, tables).digest == digest_
    others = [
        plan_of(acme.log, {"n1": [entry("v3", 2, epoch=3)]}),
        plan_of(acme.log, {**tables, "n2": [entry("v3", 2)]}),
        plan_of(acme.log, {**tables, "n2": [entry("v1", 1, epoch=1)], "n3": [entry("v1", 1, epoch=9)]}),
        plan_of(acme.log, tables, silent="n8"),
    ]
    assert digest_ not in {plan.digest for plan in others}
