"""Which replicas serve a route: spread, bounded, and moved as little as can be."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.serving.assignment import SPARE, Demand, assign, ranked
from loradeck.schemas.ids import PointerKey

names = st.lists(st.sampled_from([f"n{i}" for i in range(8)]), min_size=1, unique=True)
weights = st.floats(0.1, 10)


def routes(n: int) -> list[PointerKey]:
    return [(f"t{i}", "production") for i in range(n)]


@given(pool=names, demanded=st.lists(st.tuples(st.integers(1, 4), names), max_size=12), data=st.data())
def test_a_route_gets_as_many_of_its_pool_as_it_asks_for_and_the_rest_come_next(
    pool: list[str], demanded: list[tuple[int, list[str]]], data: st.DataObject
) -> None:
    capacity = {name: data.draw(weights) for name in pool}
    demands = {key: Demand(replicas=n, pool=among) for key, (n, among) in zip(routes(99), demanded, strict=False)}
    for key, assigned in assign(demands, capacity).items():
        there = [name for name in demands[key].pool if name in capacity]
        assert len(assigned.serving) == min(demands[key].replicas, len(there))
        assert sorted((*assigned.serving, *assigned.next)) == sorted(there)
        assert set(assigned.full) <= set(assigned.next)
        order = ranked(key, there, capacity)
        assert [name for name in order if name in assigned.next] == list(assigned.next)
        if not assigned.full:
            assert list(assigned.serving) == order[: len(assigned.serving)]


@given(n=st.integers(1, 6), sizes=st.lists(weights, min_size=6, max_size=6), replicas=st.integers(1, 2))
def test_no_replica_has_more_than_its_share_and_a_little(n: int, sizes: list[float], replicas: int) -> None:
    capacity = {f"n{i}": size for i, size in enumerate(sizes[: max(n, replicas)])}
    demands = {key: Demand(replicas=replicas, pool=tuple(capacity)) for key in routes(60)}
    loads = Counter(name for assigned in assign(demands, capacity).values() for name in assigned.serving)
    for name, weight in capacity.items():
        share = 60 * replicas * weight / sum(capacity.values())
        assert loads[name] <= math.ceil(SPARE * share) or replicas > 1, "one of two may have to go to a full one"


def test_a_replica_that_goes_moves_little_more_than_what_it_had() -> None:
    demands = {key: Demand(replicas=1, pool=tuple(f"n{i}" for i in range(10))) for key in routes(1000)}
    before = assign(demands, {f"n{i}": 1.0 for i in range(10)})
    after = assign(demands, {f"n{i}": 1.0 for i in range(9)})
    assert sum(before[key].serving != after[key].serving for key in demands) <= 1.6 * 1000 / 10
    orphans = [key for key in demands if before[key].serving == ("n9",)]
    assert sum(before[key].next[:1] == after[key].serving for key in orphans) >= 0.7 * len(orphans)


def test_the_choice_is_the_same_whatever_the_order_of_the_replicas() -> None:
    capacity = {"n1": 1.0, "n2": 2.0, "n3": 1.0}
    assert ranked(("acme", "production"), ["n3", "n1", "n2"], capacity) == ranked(
        ("acme", "production"), ["n1", "n2", "n3"], capacity
    )
    assert assign({}, {}) == {}


def test_a_route_prefers_replicas_in_proportion_to_their_weights() -> None:
    capacity = {"n1": 1.0, "n2": 2.0, "n3": 7.0}
    first = Counter(ranked(key, capacity, capacity)[0] for key in routes(4000))
    for name, weight in capacity.items():
        mean = 4000 * weight / 10
        assert abs(first[name] - mean) < 4 * math.sqrt(mean * (1 - weight / 10)), (name, first)
