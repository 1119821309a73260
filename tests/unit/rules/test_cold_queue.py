"""The queue for releases that have to be loaded: nobody's flood keeps others out, and every tenant gets its turn."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fleets.in_process.log import ref

from loradeck.rules.serving.cold_queue import (
    COMING_S,
    MOST_COMING,
    ColdRoute,
    Place,
    Turns,
    heeded,
    in_turn,
    is_awaited,
    is_overdue,
    place,
    retry_after_s,
)
from loradeck.schemas.table import ColdQueueLimits, RouteResidency, TableEntry

LIMITS = ColdQueueLimits(waiting=6, tenant=4)


def test_a_tenant_waits_up_to_its_own_limit_and_all_of_them_up_to_the_nodes() -> None:
    assert place({}, "acme", LIMITS) == Place(waits=True)
    assert place({"acme": 3}, "acme", LIMITS) == Place(waits=True)
    assert place({"acme": 4}, "acme", LIMITS) == Place(waits=False)
    assert place({"acme": 2, "bolt": 2, "cedar": 2}, "dune", LIMITS) == Place(waits=True, displaces="cedar")
    assert place({"acme": 1, "bolt": 1, "cedar": 4}, "acme", LIMITS) == Place(waits=True, displaces="cedar")
    one_each = dict.fromkeys(("acme", "bolt", "cedar", "dune", "elm", "fir"), 1)
    assert place(one_each, "gum", LIMITS) == Place(waits=False), "nobody has more than it would"
    assert place({}, "acme", ColdQueueLimits(waiting=0)) == Place(waits=False)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=60))
def test_whoever_comes_in_whatever_order_the_queue_keeps_its_limits_and_no_tenant_with_less_is_displaced(
    arrivals: list[tuple[str, bool]],
) -> None:
    waiting = Counter[str]()
    for tenant, leaves in arrivals:
        if leaves:
            waiting -= Counter({tenant: 1})
            continue
        before, decided = waiting.copy(), place(waiting, tenant, LIMITS)
        if decided.displaces is not None:
            assert before[decided.displaces] > before[tenant] + 1
            waiting[decided.displaces] -= 1
        waiting[tenant] += decided.waits
        assert waiting.total() <= LIMITS.waiting
        assert max(waiting.values(), default=0) <= LIMITS.tenant
        if not decided.waits and before[tenant] < LIMITS.tenant:
            assert max(before.values(), default=0) <= before[tenant] + 1, "a fair share was free for it"


def test_few_requests_are_said_to_be_coming_at_a_time_one_of_a_tenant_and_each_for_a_moment() -> None:
    coming: dict[tuple[str, str], float] = {}
    for number in range(MOST_COMING):
        found = heeded(coming, (f"t{number}", "a"), 1.0)
        assert found is not None
        coming = found
    assert heeded(coming, ("late", "a"), 1.0) is None
    assert heeded({("acme", "a"): 2.0}, ("acme", "b"), 1.0) is None, "one of a tenant"
    assert heeded({("acme", "a"): 2.0}, ("acme", "a"), 1.0) is None, "and no longer for being said again"
    assert heeded(coming, ("late", "a"), 1.0 + COMING_S) == {("late", "a"): 1.0 + 2 * COMING_S}


def routes(*names: str) -> list[ColdRoute]:
    return [ColdRoute((name.rstrip("0123456789"), name), float(since)) for since, name in enumerate(names)]


def test_releases_are_loaded_in_turn_over_tenants_and_of_each_the_oldest_first() -> None:
    flood = routes("acme1", "acme2", "acme3", "bolt1", "acme4", "cedar1")
    assert [key[1] for key in in_turn(flood, Turns())] == ["acme1", "bolt1", "cedar1", "acme2", "acme3", "acme4"]


@given(st.lists(st.sampled_from(("acme", "bolt", "cedar", "dune")), min_size=1, max_size=40))
def test_however_many_routes_a_tenant_asks_for_another_one_waits_for_two_loads_of_each_at_most(asks: list[str]) -> None:
    waiting = routes(*(f"{tenant}{number}" for number, tenant in enumerate(asks)))
    turns, waited = Turns(), Counter[str]()
    while waiting:
        key = in_turn(waiting, turns)[0]
        waiting = [route for route in waiting if route.key != key]
        tenants = {route.key[0] for route in waiting}
        turns = turns.taken(key[0], tenants)
        waited = Counter({tenant: waited[tenant] + 1 for tenant in tenants if tenant != key[0]})
        assert max(waited.values(), default=0) <= 2 * 3
    assert not turns.of, "nothing is kept of tenants that do not wait"


def test_a_tenant_that_comes_back_has_no_turns_saved_up() -> None:
    turns = Turns()
    for _ in range(5):
        turns = turns.taken("acme", {"acme"})
    assert [key[0] for key in in_turn(routes("acme1", "bolt1", "bolt2"), turns)] == ["acme", "bolt", "bolt"]


@pytest.mark.parametrize(
    ("residency", "current", "how", "waits"),
    [
        (RouteResidency.ON_DEMAND, "v1", {}, True),
        (RouteResidency.ALWAYS, "v1", {}, False),
        (RouteResidency.ON_DEMAND, "base", {}, False),
        (RouteResidency.ON_DEMAND, "v1", {"flipped": False}, False),
        (RouteResidency.ON_DEMAND, "v1", {"pinned": True}, False),
        (RouteResidency.ON_DEMAND, "v1", {"engine": False}, False),
    ],
)
def test_requests_wait_only_for_what_an_engine_here_will_load_and_the_entry_in_force_names(
    residency: RouteResidency, current: str, how: dict[str, bool], waits: bool
) -> None:
    entry = TableEntry(
        tenant="acme", route="production", epoch=1, generation=1, current=ref(current), residency=residency
    )
    stands = {"flipped": True, "pinned": False, "engine": True} | how
    assert is_awaited(entry, **stands) is waits
    assert not is_awaited(entry.model_copy(update={"suspended": True}), **stands)


def test_a_caller_is_told_to_come_back_once_what_is_before_it_should_be_loaded() -> None:
    assert [retry_after_s(3, None), retry_after_s(0, 0.5), retry_after_s(5, 0.5), retry_after_s(900, 2)] == [
        2,
        1,
        3,
        60,
    ]


def test_a_release_gives_its_turn_up_once_it_was_to_be_loaded_for_half_of_the_time_that_a_request_waits() -> None:
    limits = ColdQueueLimits(seconds=20)
    assert [is_overdue(named_s, limits) for named_s in (0.0, 9.9, 10.0, 20.0)] == [False, False, True, True]
