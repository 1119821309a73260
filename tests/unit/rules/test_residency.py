"""Slots: all currents, then the top of each stack; and nothing is unloaded but to make room."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.fleets.in_process.log import digest, ref

from loradeck.rules.serving import residency as rules
from loradeck.rules.serving.residency import (
    MOVED_NOW_MS,
    PriorRoom,
    Residency,
    always_held,
    asked_lately,
    claims,
    in_turn,
    prior_room,
    promote_asks,
)
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import Pin, ReleaseRef, RouteResidency, TableEntry

ORDER = ("waiting", "hinted")
LOADED = (*ORDER, "busy", "answering", "stored")


def wanted(entries: Sequence[TableEntry], **how: Any) -> list[ReleaseRef]:
    order = {name: how.pop(name) for name in ORDER if name in how}
    return rules.wanted(claims(entries, **how), **order)


def plan(entries: Sequence[TableEntry], slots: int, loaded: Collection[str], **how: Any) -> Residency:
    held = {name: how.pop(name) for name in LOADED if name in how}
    return rules.plan(claims(entries, slots=slots, **how), loaded, **held)


def with_room(releases: Collection[str], entries: Sequence[TableEntry], slots: int, **how: Any) -> set[str]:
    return rules.with_room(releases, claims(entries, slots=slots, **how))


def needed(entries: Sequence[TableEntry], *, now_ms: int, waiting: Sequence[PointerKey]) -> dict[str, int]:
    return rules.needed(claims(entries, now_ms=now_ms), waiting)


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


def test_what_always_stays_are_pins_and_the_currents_and_ways_back_of_always_routes() -> None:
    asked = at("bolt", "v5", "v4").model_copy(update={"residency": RouteResidency.ON_DEMAND})
    pinned = Pin(
        tenant="core", route="production", release=ref("v8", "core"), over=(1, 1), reason="r", actor="a", at_ms=0
    )
    held = always_held([at("acme", "v3", "v2", "v1"), asked], [pinned])
    assert [{one} for one in held] == [ids("core v8"), ids("acme v3"), ids("acme v2")]


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


def test_nothing_makes_room_for_what_is_yet_to_be_fetched_and_its_place_is_nobody_elses() -> None:
    loaded = ids("acme v1", "cedar v1")
    one = plan([ACME], 2, loaded, stored=[ref("v2", "acme").release.adapter])
    assert [r.label for r in one.fetch] == ["v3"]
    assert (named(one)[0], set(one.unload)) == (["acme v2"], ids("acme v1"))
    free = plan([ACME, BOLT], 2, (), stored=[ref("v5", "bolt").release.adapter, ref("v2", "acme").release.adapter])
    assert ([r.label for r in free.fetch], named(free)[0]) == (["v3"], ["bolt v5"])
    assert plan([ACME], 2, ids("acme v3", "acme v2"), stored=()).fetch == ()


def test_what_is_coming_turns_out_an_idle_current_of_less_traffic_and_nothing_that_answers_or_is_awaited() -> None:
    asked = [at(t, "v1").model_copy(update={"residency": RouteResidency.ON_DEMAND}) for t in ("acme", "bolt", "core")]
    traffic = {("acme", "production"): 5.0, ("bolt", "production"): 1.0}
    coming = {("core", "production")}
    loaded = ids("acme v1", "bolt v1")
    one = plan(asked, 2, loaded, traffic=traffic, hinted=coming)
    assert (named(one)[0], set(one.unload), one.drain) == (["core v1"], ids("bolt v1"), ())
    busy = plan(asked, 2, loaded, traffic=traffic, hinted=coming, answering=loaded)
    assert (busy.load, busy.unload, busy.drain) == ((), (), ())
    waits = plan(asked, 1, (), traffic=traffic, hinted=coming, waiting=[("bolt", "production")])
    assert named(waits)[0] == ["bolt v1"]


def test_a_slot_can_come_free_unless_pins_always_routes_and_fresh_moves_hold_them_all() -> None:
    asked = at("core", "v1").model_copy(update={"residency": RouteResidency.ON_DEMAND})
    wants = ref("v1", "core").id

    def can_come_free(release: str, *asked: Any, **more: Any) -> bool:
        return with_room([release], *asked, **more) == {release}

    entries = [ACME, BOLT, asked]  # two currents and where R goes of each
    assert [can_come_free(wants, entries, slots) for slots in (3, 4, 5)] == [False, False, True]
    assert can_come_free(ref("v5", "bolt").id, entries, 4), "it has one itself"
    pin = Pin(tenant="core", route="x", release=ref("v9", "core"), over=(1, 1), reason="r", actor="a", at_ms=0)
    assert not can_come_free(wants, entries, 5, pins=[pin])
    assert can_come_free(wants, [at("acme", "v3", "v2", base="B2"), asked], 1, base=digest("B1"))
    moved = asked.model_copy(update={"moved_ms": 1})
    assert can_come_free(wants, [BOLT, moved], 4, now_ms=2)


DAY_MS = 24 * 3600 * 1000


def asked(tenant: str, current: str, *beneath: str, moved_ms: int = 0) -> TableEntry:
    update = {"residency": RouteResidency.ON_DEMAND, "moved_ms": moved_ms}
    return at(tenant, current, *beneath).model_copy(update=update)


def test_on_demand_routes_come_after_the_others_by_their_traffic_and_priors_of_the_last_day_before_them() -> None:
    entries = [asked("cedar", "v2", "v1", moved_ms=DAY_MS), asked("dune", "v8", "v7"), asked("elm", "v6"), ACME]
    order = wanted(entries, slots=8, now_ms=DAY_MS, traffic={("elm", "production"): 9, ("dune", "production"): 2})
    assert [f"{r.release.tenant} {r.label}" for r in order] == [
        "acme v3",
        "acme v2",
        "cedar v1",
        "cedar v2",
        "elm v6",
        "dune v8",
        "dune v7",
        "acme v1",
    ]


def test_an_on_demand_route_without_any_request_comes_behind_one_with_few() -> None:
    entries = [asked("cedar", "v2"), asked("dune", "v8")]
    order = wanted(entries, slots=8, now_ms=DAY_MS, traffic={("dune", "production"): 0.5})
    assert [ref.label for ref in order] == ["v8", "v2"]


def test_priors_of_the_last_day_take_at_most_half_of_the_slots_that_pins_and_always_routes_leave() -> None:
    entries = [asked(tenant, "v2", "v1", moved_ms=DAY_MS) for tenant in ("cedar", "dune", "elm")]
    later = DAY_MS + MOVED_NOW_MS
    assert [r.label for r in wanted(entries, slots=4, now_ms=later)] == ["v1", "v1", "v2", "v2", "v2", "v1"]
    assert [r.label for r in wanted([*entries, ACME], slots=4, now_ms=later)][2:4] == ["v1", "v2"]


def test_a_prior_keeps_its_slot_only_where_its_pointer_is_asked_as_often_as_those_that_have_slots() -> None:
    entries = [asked(tenant, "v2", "v1", moved_ms=DAY_MS) for tenant in ("cedar", "dune", "elm", "fir")]
    traffic = {("cedar", "production"): 9.0, ("dune", "production"): 7.0, ("elm", "production"): 1.0}
    later = DAY_MS + MOVED_NOW_MS
    order = wanted(entries, slots=2, now_ms=later, traffic=traffic)
    assert [f"{r.release.tenant} {r.label}" for r in order][:3] == ["cedar v1", "cedar v2", "dune v2"]
    seldom = {("elm", "production"): 9.0, ("fir", "production"): 7.0}
    order = wanted([*entries[:2], at("elm", "v5")], slots=2, now_ms=later, traffic=seldom)
    assert order[0].release.tenant == "elm", "where all that are on demand have a slot nothing changes"
    loaded = ids("cedar v1", "cedar v2", "dune v2")
    assert with_room(ids("fir v2"), entries, 2, now_ms=later, traffic=traffic) == ids("fir v2")
    assert named(plan(entries, 3, loaded, now_ms=later, traffic={**traffic, ("elm", "production"): 9.5}))[1] == 0
    waits = plan(entries, 3, loaded, now_ms=later, traffic=traffic, waiting=(("fir", "production"),))
    assert named(waits)[:2] == (["fir v2"], 1), "cedar's way back stays, and dune's current goes"
    assert ids("cedar v1").isdisjoint(waits.unload)


def test_what_another_engines_base_is_asked_for_takes_no_slot_from_the_priors_here() -> None:
    here = [asked(tenant, "v2", "v1", moved_ms=DAY_MS) for tenant in ("cedar", "dune")]
    other = [asked(tenant, "v2", "v1", moved_ms=DAY_MS) for tenant in ("elm", "fir", "gum", "holly")]
    elsewhere = [
        one.model_copy(update={"current": ref("v2", one.tenant, "B2"), "beneath": (ref("v1", one.tenant, "B2"),)})
        for one in other
    ]
    pinned = at("iris", "v2", "v1", base="B2")
    traffic = {one.key: 1.0 for one in here} | {one.key: 9.0 for one in elsewhere}
    how: dict[str, Any] = {"slots": 4, "base": digest("B1"), "now_ms": DAY_MS + MOVED_NOW_MS, "traffic": traffic}
    alone = wanted(here, **how)
    assert [ref.label for ref in alone] == ["v1", "v1", "v2", "v2"]
    assert wanted([*elsewhere, pinned, *here], **how) == alone
    moved = [*elsewhere, asked("jade", "v2", moved_ms=DAY_MS), asked("kite", "v1")]
    assert plan(moved, 1, ids("kite v1"), base=digest("B1"), now_ms=DAY_MS).unload == (*ids("kite v1"),)


def test_where_a_route_has_moved_to_is_loaded_at_once_and_keeps_no_slot_from_what_is_asked_for_more() -> None:
    entries = [asked("cedar", "v2", "v1", moved_ms=DAY_MS), asked("dune", "v1"), asked("elm", "v1")]
    how: dict[str, Any] = {"traffic": {("dune", "production"): 2.0, ("elm", "production"): 1.0}}
    loaded = ids("cedar v1", "dune v1", "elm v1")
    at_once = plan(entries, 3, loaded, now_ms=DAY_MS, **how)
    assert (named(at_once)[0], set(at_once.unload)) == (["cedar v2"], ids("elm v1"))
    later = plan(entries, 3, loaded, now_ms=DAY_MS + MOVED_NOW_MS, **how)
    assert (later.load, later.unload) == ((), ())


def test_what_requests_wait_for_turns_out_the_least_asked_and_nothing_that_is_always_there() -> None:
    quiet = [asked(tenant, "v1") for tenant in ("cedar", "dune", "elm", "fir")]
    loaded = ids("acme v3", "acme v2", "cedar v1", "dune v1")
    traffic = {("cedar", "production"): 1.0, ("dune", "production"): 5.0, ("fir", "production"): 99.0}
    how: dict[str, Any] = {"now_ms": DAY_MS, "traffic": traffic}
    unasked = plan([ACME, *quiet], 4, loaded, **how)
    assert (unasked.load, unasked.unload) == ((), ()), "nobody waits for fir, though it was asked for most"
    elm = ("elm", "production")
    cold = plan([ACME, *quiet], 4, loaded, waiting=[elm], **how)
    assert ([ref.release.tenant for ref in cold.load], set(cold.unload)) == (["elm"], ids("cedar v1"))
    answers = plan([ACME, *quiet], 4, loaded, waiting=[elm], answering=ids("cedar v1", "dune v1"), **how)
    assert (answers.load, answers.unload, set(answers.drain)) == ((), (), ids("cedar v1"))
    full = plan([ACME, *quiet], 2, ids("acme v3", "acme v2"), waiting=[elm], **how)
    assert (full.load, full.unload, full.drain) == ((), (), ())


def test_where_r_goes_on_an_always_route_stays_while_another_ones_current_release_is_loaded() -> None:
    bolt, cedar = at("bolt", "v5", "v4"), asked("cedar", "v1")
    loaded, free = ids("acme v2", "bolt v5", "bolt v4", "cedar v1"), (4, ids("cedar v1", "bolt v5"))
    gives_way = plan([ACME, bolt, cedar], free[0], loaded, answering=free[1], now_ms=DAY_MS)
    assert (gives_way.load, gives_way.unload, set(gives_way.drain)) == ((), (), ids("cedar v1"))
    alone = plan([ACME, bolt], 3, ids("acme v2", "bolt v5", "bolt v4"), answering=ids("bolt v5"), now_ms=DAY_MS)
    assert (named(alone)[0], set(alone.unload)) == (["acme v3"], ids("bolt v4")), "there is no room for all of them"


def test_what_requests_wait_for_is_loaded_before_the_priors_that_keep_slots() -> None:
    entries = [asked("dune", "v7", "v6", moved_ms=5), asked("bolt", "v5"), asked("echo", "v2"), at("acme", "v3", "v2")]
    waiting = (("echo", "production"), ("bolt", "production"))
    load = plan(entries, 6, (), now_ms=6, waiting=waiting).load
    before = [f"{r.release.tenant} {r.label}" for r in load]
    assert before == ["acme v3", "acme v2", "dune v6", "echo v2", "bolt v5", "dune v7"]
    order = [{one} for one in needed(entries, now_ms=6, waiting=waiting)]
    assert order == [ids("acme v3"), ids("acme v2"), ids("echo v2"), ids("bolt v5"), ids("dune v7")]
    later = needed(entries, now_ms=5 + MOVED_NOW_MS, waiting=())
    assert later.keys() == ids("acme v3", "acme v2"), "the prior of a move keeps its slot, and nobody waits for it"


def test_while_requests_wait_one_release_that_nobody_waits_for_comes_last_and_each_ten_seconds_first() -> None:
    refs = [ref(label) for label in ("v1", "v2", "v3", "v4")]
    places = {refs[3].id: 0, refs[2].id: 1}

    def turns(**how: Any) -> list[str]:
        return [one.label for one in in_turn(refs, places, **{"loading": (), "waits": True, "since_s": 9.0, **how})]

    assert turns() == ["v4", "v3", "v1"]
    assert turns(since_s=10.0) == ["v1", "v4", "v3"]
    assert turns(since_s=99.0, loading=[ref("v9").id]) == ["v4", "v3"], "one at a time"
    assert turns(waits=False) == ["v4", "v3", "v1", "v2"]


def test_a_candidate_and_what_is_prepared_borrow_the_slot_of_the_current_that_is_asked_for_least() -> None:
    on_demand = {"residency": RouteResidency.ON_DEMAND}
    quiet = [asked("cedar", "v1"), at("dune", "v1", preparing="v2").model_copy(update=on_demand)]
    traffic = {("dune", "production"): 1.0}
    residency = plan(quiet, 2, ids("cedar v1", "dune v1"), now_ms=DAY_MS, traffic=traffic)
    assert ([ref.label for ref in residency.load], set(residency.unload)) == (["v2"], ids("cedar v1"))


def test_a_move_is_loaded_at_once_in_the_place_of_what_it_left_or_of_the_current_that_is_asked_for_least() -> None:
    left = plan([asked("cedar", "v2")], 1, ids("cedar v1"), now_ms=2 * DAY_MS)
    assert ([ref.label for ref in left.load], set(left.unload)) == (["v2"], ids("cedar v1")), (
        "no entry names what it left"
    )
    entries = [asked("dune", "v2", moved_ms=DAY_MS), asked("cedar", "v1"), asked("elm", "v1")]
    full = plan(entries, 2, ids("cedar v1", "elm v1"), now_ms=DAY_MS, traffic={("elm", "production"): 1.0})
    assert ([ref.release.tenant for ref in full.load], set(full.unload)) == (["dune"], ids("cedar v1"))


def test_requests_count_half_after_ten_minutes() -> None:
    assert [asked_lately(8, 0, 600), asked_lately(8, 3, 0), asked_lately(0, 5, 1e9)] == [4, 11, 5]


def room(slots: int, residency: RouteResidency, *others: TableEntry) -> PriorRoom:
    moved = at("bolt", "v5", "v4").model_copy(update={"residency": residency, "moved_ms": DAY_MS})
    return prior_room(moved, others, slots, base=digest("B1"), now_ms=DAY_MS)


def test_a_promote_needs_room_for_the_prior_too_and_on_demand_may_do_without() -> None:
    for slots, always, on_demand in (
        (5, "fits", "fits"),
        (4, "fits", "fits"),
        (3, "fits", "cold"),
        (2, "full", "full"),
    ):
        found = [room(slots, residency, ACME) for residency in RouteResidency]
        assert found == [always, on_demand], slots
    assert [promote_asks(room) for room in PriorRoom] == [None, "prior cold", None]
    many = [asked(tenant, "v2", "v1") for tenant in ("cedar", "dune", "elm")]
    assert room(2, RouteResidency.ALWAYS, *many) is PriorRoom.FITS, "on-demand routes make room"
    assert room(1, RouteResidency.ON_DEMAND, *many) is PriorRoom.COLD


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


@given(
    st.lists(st.sampled_from(RouteResidency), min_size=3, max_size=3),
    st.lists(st.sampled_from([(tenant, "production") for tenant in TENANTS]), unique=True),
    st.integers(0, 6),
    some,
    some,
)
def test_whoever_waits_no_always_route_and_no_way_back_of_one_is_turned_out_for_an_on_demand_one(
    residencies: list[RouteResidency],
    waiting: list[tuple[str, str]],
    slots: int,
    loaded: set[str],
    answering: set[str],
) -> None:
    entries = [
        at(tenant, "v3", "v2").model_copy(update={"residency": residency, "moved_ms": 0})
        for tenant, residency in zip(TENANTS, residencies, strict=True)
    ]
    always = [e for e in entries if e.residency is RouteResidency.ALWAYS]
    kept = {ref.id for e in always for ref in (e.current, *e.beneath) if ref is not None}
    loaded = set([*sorted(kept), *sorted(loaded - kept)][:slots])
    found = plan(entries, slots, loaded, answering=answering, waiting=waiting, now_ms=DAY_MS + 1)
    if kept <= loaded:
        assert not kept & {*found.unload, *found.drain}
    assert not answering & set(found.unload)
    assert set(found.drain) <= answering & loaded
    assert len((loaded - set(found.unload)) | {ref.id for ref in found.load}) <= slots


kinds = st.lists(st.sampled_from(RouteResidency), min_size=3, max_size=3)


@given(st.lists(stacks, min_size=3, max_size=3), kinds, st.integers(0, 6), st.integers(0, 2 * DAY_MS))
def test_what_a_promote_finds_is_what_the_engine_then_holds(
    labels: list[list[str]], residency: list[RouteResidency], slots: int, now_ms: int
) -> None:
    entries = [
        at(tenant, *stack).model_copy(update={"residency": kind, "moved_ms": 0})
        for tenant, stack, kind in zip(TENANTS, labels, residency, strict=True)
    ]
    moved = entries[0].model_copy(update={"moved_ms": now_ms})
    found = prior_room(moved, entries[1:], slots, base=digest("B1"), now_ms=now_ms)
    most = {moved.key: 1.0}
    held = {r.id for r in plan([moved, *entries[1:]], slots, (), now_ms=now_ms, traffic=most).load}
    assert moved.current is not None
    prior = {ref.id for ref in moved.beneath[:1]}
    live_held, prior_held = moved.current.id in held, prior <= held
    assert (found is PriorRoom.FITS) == (live_held and prior_held)
    assert found is not PriorRoom.COLD or (moved.residency is RouteResidency.ON_DEMAND and live_held)
    if all(kind is RouteResidency.ALWAYS for kind in residency) and prior:
        needed = len({*(e.current.id for e in entries if e.current), *prior})
        assert (found is PriorRoom.FULL) == (needed > slots), "as before there were on-demand routes"
