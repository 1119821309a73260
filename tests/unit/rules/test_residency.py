"""Slots: all currents, then the top of each stack; and nothing is unloaded but to make room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rules.simulated_log import digest, ref

from loradeck.rules.serving.residency import Residency, plan, wanted
from loradeck.schemas.table import Pin, TableEntry


def at(tenant: str, current: str | None, *beneath: str, preparing: str | None = None, base: str = "B1") -> TableEntry:
    return TableEntry(
        tenant=tenant,
        route="production",
        epoch=1,
        generation=1,
        current=ref(current, tenant, base) if current else None,
        beneath=tuple(ref(b, tenant, base) for b in beneath),
        preparing=ref(preparing, tenant, base) if preparing else None,
    )


def named(residency: Residency) -> tuple[list[str], int, list[str]]:
    return (
        [f"{r.release.tenant} {r.label}" for r in residency.load],
        len(residency.unload),
        [f"{r.release.tenant} {r.label}" for r in residency.short],
    )


def ids(*names: str) -> set[str]:
    return {ref(label, tenant).id for tenant, label in (name.split() for name in names)}


ACME, BOLT = at("acme", "v3", "v2", "v1"), at("bolt", "v5", "v4")


def test_slots_go_to_all_currents_then_to_the_tops_then_further_down() -> None:
    order = [f"{r.release.tenant} {r.label}" for r in wanted([ACME, BOLT])]
    assert order == ["acme v3", "bolt v5", "acme v2", "bolt v4", "acme v1"]
    assert named(plan([ACME, BOLT], 3, ())) == (["acme v3", "bolt v5", "acme v2"], 0, ["bolt v4", "acme v1"])


def test_the_newest_move_comes_first() -> None:
    assert named(plan([BOLT, ACME], 3, ()))[0] == ["bolt v5", "acme v3", "bolt v4"]


def test_a_candidate_takes_a_slot_beside_every_way_back_and_not_instead_of_one() -> None:
    entries = [at("acme", "v3", "v2", preparing="v9"), BOLT]
    assert named(plan(entries, 4, ids("acme v3", "acme v2", "bolt v5", "bolt v4"))) == ([], 0, ["acme v9"])
    assert named(plan(entries, 5, ids("acme v3", "acme v2", "bolt v5", "bolt v4")))[0] == ["acme v9"]


def test_what_no_entry_names_stays_while_there_is_room() -> None:
    left = ids("acme v9")
    assert named(plan([ACME], 4, ids("acme v3", "acme v2", "acme v1") | left)) == ([], 0, [])


def test_what_no_entry_names_goes_first_when_room_is_needed() -> None:
    left = ids("acme v9")
    residency = plan([ACME, BOLT], 4, ids("acme v3", "acme v2", "acme v1") | left)
    assert named(residency)[0] == ["bolt v5", "bolt v4"]
    assert set(residency.unload) == left | ids("acme v1")


def test_a_current_takes_the_slot_of_a_way_back_when_there_is_no_other() -> None:
    residency = plan([ACME, BOLT], 2, ids("acme v3", "acme v2"))
    assert named(residency) == (["bolt v5"], 1, ["acme v2", "bolt v4", "acme v1"])
    assert set(residency.unload) == ids("acme v2")


def test_what_answers_somebody_is_not_unloaded_and_the_next_best_goes_instead() -> None:
    loaded = ids("acme v3", "acme v2", "bolt v4")
    residency = plan([ACME, BOLT], 3, loaded, busy=ids("bolt v4"))
    assert set(residency.unload) == ids("acme v2")
    assert named(residency)[0] == ["bolt v5"]
    assert named(plan([ACME, BOLT], 3, loaded, busy=loaded)) == ([], 0, ["bolt v5", "acme v1"])


def test_nothing_makes_room_for_what_stands_behind_it() -> None:
    left = ids("acme v9")
    residency = plan([ACME, BOLT], 2, ids("acme v3") | left, busy=left)
    assert named(residency) == ([], 0, ["bolt v5", "acme v2", "bolt v4", "acme v1"])


def test_pins_come_first() -> None:
    pin = Pin(
        tenant="acme", route="production", release=ref("v0"), over=(1, 1), actor="op1", reason="hub gone", at_ms=0
    )
    assert named(plan([ACME, BOLT], 2, (), pins=[pin]))[0] == ["acme v0", "acme v3"]


def test_the_base_alone_and_releases_of_other_bases_need_no_slot_here() -> None:
    entries = [at("acme", "base", "v2"), at("bolt", "v5", base="B2"), at("cedar", None)]
    assert named(plan(entries, 4, (), base=digest("B1")))[0] == ["acme v2"]


TENANTS = ("acme", "bolt", "cedar")
LABELS = ("v1", "v2", "v3")
some = st.sets(st.sampled_from([ref(label, tenant).id for tenant in TENANTS for label in LABELS]))
stacks = st.lists(st.sampled_from(LABELS), min_size=1, max_size=3, unique=True)


@given(st.lists(stacks, min_size=3, max_size=3), st.integers(0, 6), some, some)
def test_whatever_is_loaded_the_plan_fits_and_leaves_no_current_behind_a_way_back(
    labels: list[list[str]], slots: int, loaded: set[str], busy: set[str]
) -> None:
    entries = [at(tenant, *stack) for tenant, stack in zip(TENANTS, labels, strict=True)]
    loaded = set(sorted(loaded)[:slots])
    residency = plan(entries, slots, loaded, busy=busy)
    load, unload = {r.id for r in residency.load}, set(residency.unload)
    after = (loaded - unload) | load
    assert len(after) <= slots
    assert unload <= loaded - busy
    assert not load & loaded
    assert len(unload) <= len(load)
    order = [r.id for r in wanted(entries)]
    assert {r.id for r in residency.short} == set(order) - after
    if not busy:
        assert after >= set(order[:slots])
        assert plan(entries, slots, after).load == ()


def test_without_entries_or_without_slots_nothing_is_loaded() -> None:
    assert wanted([]) == []
    assert named(plan([], 3, ())) == ([], 0, [])
    for slots in (0, -1):
        assert named(plan([ACME], slots, ())) == ([], 0, ["acme v3", "acme v2", "acme v1"])
