"""Which replicas serve a route: spread, bounded, and moved as little as can be."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.assigned import assign

from loradeck.rules.serving.assignment import HEAVY, SPARE, Demand, assigning, explained, loads, ranked
from loradeck.schemas.ids import PointerKey

names = st.lists(st.sampled_from([f"n{i}" for i in range(8)]), min_size=1, unique=True)
weights = st.floats(0.1, 10)


def routes(n: int) -> list[PointerKey]:
    return [(f"t{i}", "production") for i in range(n)]


def demanded(n: int, pool: int, replicas: int = 1) -> dict[PointerKey, Demand]:
    return {key: Demand(replicas=replicas, pool=tuple(f"n{i}" for i in range(pool))) for key in routes(n)}


def again(demands: dict[PointerKey, Demand], serving: dict[PointerKey, tuple[str, ...]]) -> dict[PointerKey, Demand]:
    """The same demands, with what serves them."""
    return {key: Demand(**{**demand.__dict__, "now": serving.get(key, ())}) for key, demand in demands.items()}


@given(pool=names, asked=st.lists(st.tuples(st.integers(1, 4), names, weights), max_size=12), data=st.data())
def test_a_route_gets_as_many_of_its_pool_as_it_asks_for_the_nearest_that_had_room(
    pool: list[str], asked: list[tuple[int, list[str], float]], data: st.DataObject
) -> None:
    capacity = {name: data.draw(weights) for name in pool}
    demands = {
        key: Demand(replicas=n, pool=among, load=load) for key, (n, among, load) in zip(routes(99), asked, strict=False)
    }
    made = assign(demands, capacity)
    for key, serving in made.serving.items():
        there = [name for name in demands[key].pool if name in capacity]
        assert len(set(serving)) == len(serving) == min(demands[key].replicas, len(there))
        choices = explained(key, demands[key], capacity, made)
        assert [one.replica for one in choices] == ranked(key, there, capacity)
        assert {one.replica for one in choices if one.serves} == set(serving)
    for name in capacity:
        sums = sum(demands[key].load for key, serving in made.serving.items() if name in serving)
        assert math.isclose(made.load[name], sums, abs_tol=1e-6)


@given(n=st.integers(1, 6), sizes=st.lists(weights, min_size=6, max_size=6))
def test_no_replica_has_more_than_its_share_and_a_little(n: int, sizes: list[float]) -> None:
    capacity = {f"n{i}": size for i, size in enumerate(sizes[:n])}
    made = assign(demanded(60, n), capacity)
    for name, weight in capacity.items():
        share = 60 * weight / sum(capacity.values())
        assert made.load[name] <= max(1, math.ceil(share), SPARE * share) + 1e-6


@given(
    sizes=st.lists(weights, min_size=2, max_size=6),
    heavy=st.lists(st.floats(0.5, HEAVY), min_size=1, max_size=20),
    before=st.lists(st.integers(0, 5), min_size=20, max_size=20),
    replicas=st.integers(1, 2),
    zones=st.booleans(),
)
def test_whatever_serves_now_the_assignment_comes_to_rest(
    sizes: list[float], heavy: list[float], before: list[int], replicas: int, zones: bool
) -> None:
    capacity = {f"n{i}": size for i, size in enumerate(sizes)}
    where = {name: str(i % 2) for i, name in enumerate(capacity)} if zones else {}
    demands = {
        key: Demand(replicas=replicas, pool=tuple(capacity), load=load, zones=where, now=(f"n{at}",))
        for key, load, at in zip(routes(20), heavy, before, strict=False)
    }
    serving = dict(assign(demands, capacity).serving)
    for _ in range(30):
        following = dict(assign(again(demands, serving), capacity).serving)
        if {key: set(some) for key, some in following.items()} == {key: set(some) for key, some in serving.items()}:
            break
        serving = following
    else:
        raise AssertionError("it moves for ever")
    if zones and replicas == 2:
        assert all({where[name] for name in some} == {"0", "1"} for some in serving.values())


def test_a_replica_that_goes_moves_what_it_had_and_hardly_more_and_one_that_comes_its_share() -> None:
    demands, all_of_them = demanded(1000, 10), {f"n{i}": 1.0 for i in range(10)}
    full = dict(assign(demands, all_of_them).serving)
    without = dict(assign(again(demands, full), {f"n{i}": 1.0 for i in range(9)}).serving)
    orphans = [key for key in demands if full[key] == ("n9",)]
    assert sum(full[key] != without[key] for key in demands) <= 1.2 * len(orphans)
    back = dict(assign(again(demands, without), all_of_them).serving)
    moved = [key for key in demands if back[key] != without[key]]
    assert 0.8 * 100 <= len(moved) <= 1.2 * 100
    comes = {key for key in moved if back[key] == ("n9",)}
    assert len(comes) >= 0.85 * len(moved)
    assert comes >= {key for key in orphans if ranked(key, all_of_them, all_of_them)[0] == "n9"}


def test_what_serves_stays_where_one_more_route_makes_room_for_others() -> None:
    capacity = {f"n{i}": 1.0 for i in range(10)}
    serving = dict(assign(demanded(200, 10), capacity).serving)
    for n in range(200, 215):
        following = dict(assign(again(demanded(n + 1, 10), serving), capacity).serving)
        assert {key: following[key] for key in serving} == serving
        serving = following


def test_of_one_that_is_too_full_those_leave_that_prefer_it_least() -> None:
    capacity = {"n0": 1.0, "n1": 1.0}
    demands = {key: Demand(replicas=1, pool=("n0", "n1"), now=("n0",)) for key in routes(20)}
    made = assign(demands, capacity)
    assert made.load["n0"] <= made.room["n0"] == 11.5

    def far(key: PointerKey) -> float:
        return next(one.distance for one in explained(key, demands[key], capacity, made) if one.replica == "n0")

    assert {made.serving[key] for key in sorted(demands, key=far)[-9:]} == {("n1",)}


def test_a_cold_zone_is_no_reason_to_leave_and_another_zone_is() -> None:
    capacity, zones = {f"n{i}": 1.0 for i in range(3)}, {"n0": "a", "n1": "a", "n2": "b"}
    key = routes(1)[0]
    doubled = Demand(replicas=2, pool=tuple(capacity), zones=zones, now=("n0", "n1"))
    assert set(assign({key: doubled}, capacity).serving[key]) == {"n0", "n2"}
    no_other = Demand(replicas=2, pool=("n0", "n1"), zones=zones, now=("n0", "n1"))
    assert set(assign({key: no_other}, capacity).serving[key]) == {"n0", "n1"}


def test_the_choice_is_the_same_whatever_the_order_of_the_replicas() -> None:
    capacity = {"n1": 1.0, "n2": 2.0, "n3": 1.0}
    assert ranked(("acme", "production"), ["n3", "n1", "n2"], capacity) == ranked(
        ("acme", "production"), ["n1", "n2", "n3"], capacity
    )
    assert assign({}, {}).serving == {}


def test_a_route_prefers_replicas_in_proportion_to_their_weights() -> None:
    capacity = {"n1": 1.0, "n2": 2.0, "n3": 7.0}
    first = Counter(ranked(key, capacity, capacity)[0] for key in routes(4000))
    for name, weight in capacity.items():
        mean = 4000 * weight / 10
        assert abs(first[name] - mean) < 4 * math.sqrt(mean * (1 - weight / 10)), (name, first)


def test_a_route_weighs_by_its_requests_within_bounds_and_one_without_a_history_as_a_usual_one() -> None:
    a, b, c, d = routes(4)
    assert loads({a: 10, b: 30, c: None, d: 0}) == {a: 0.88, b: 1.62, c: 1.0, d: 0.5}
    assert loads({a: 0.0, b: None}) == {a: 1.0, b: 1.0}
    assert loads(dict.fromkeys(routes(99), 0.0) | {("big", "production"): 1e6})["big", "production"] == HEAVY


def test_it_pauses_at_each_look_at_a_route() -> None:
    demands = demanded(50, 4)
    first = sum(1 for _ in assigning(demands, dict.fromkeys(("n0", "n1", "n2", "n3"), 1.0)))
    assert first >= 2 * len(demands), "once where it keeps what there is, once where it gives"
