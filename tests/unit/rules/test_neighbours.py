"""Neighbours of a release are as bad only if most tenants are, whichever tenant and whichever node is left out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.quality.health import ENOUGH, Units, total
from loradeck.rules.quality.neighbours import as_bad

RELEASE = (60, 200)
BAD, GOOD, FLOOD, FEW = (90, 300), (3, 300), (90_000, 90_000), (20, 40)


def are(*nodes: Mapping[str, Units]) -> bool:
    return as_bad(RELEASE, {f"n{number}": node for number, node in enumerate(nodes)})


@pytest.mark.parametrize(
    ("tenants", "expected"),
    [
        ({"a": BAD, "b": BAD, "c": BAD}, True),
        ({"a": BAD, "b": BAD}, True),
        ({"a": BAD, "b": BAD, "c": BAD, "d": GOOD}, True),
        ({"a": BAD, "b": BAD, "c": GOOD}, False),  # without a it is a tie
        ({"a": GOOD, "b": GOOD, "c": GOOD}, False),
        ({"a": BAD, "b": BAD, "c": FEW}, True),  # who is hardly asked says nothing
        ({"a": FEW, "b": FEW, "c": FEW}, False),
        ({"a": BAD}, False),
        ({"a": FLOOD}, False),
        ({"a": FLOOD, "b": GOOD, "c": GOOD}, False),
        ({}, False),
    ],
)
def test_most_of_the_tenants_have_to_be_as_bad_without_any_one_of_them(
    tenants: Mapping[str, Units], expected: bool
) -> None:
    assert are(tenants) is expected


def test_what_one_node_says_of_all_tenants_counts_where_there_is_no_other() -> None:
    everybody, nobody = dict.fromkeys("abc", BAD), dict.fromkeys("abc", GOOD)
    assert are(everybody)
    assert not are(everybody, {}), "another node, that says nothing, serves the release too"
    assert not are(everybody, nobody, nobody)
    assert not are(dict.fromkeys("abc", FLOOD), nobody, nobody)
    assert are(everybody, everybody)
    assert are(everybody, everybody, {})


shares = st.tuples(st.integers(0, 400), st.integers(0, 400)).map(lambda pair: (min(pair), max(pair)))
fleets = st.lists(st.dictionaries(st.sampled_from("abcde"), shares, max_size=5), min_size=1, max_size=4)


@given(fleets, st.sampled_from("abcde"), shares)
def test_neighbours_are_as_bad_only_if_most_are_without_any_one_tenant_whatever_that_says(
    nodes: list[dict[str, Units]], liar: str, lie: Units
) -> None:
    others = [units for tenant, units in merged(nodes).items() if tenant != liar and units[1] >= ENOUGH]
    alike = sum(are({"one": units, "two": units}) for units in others)
    if are(*(node | {liar: lie} for node in nodes)):
        assert 2 * alike > len(others)


@given(fleets, st.integers(0, 3), shares)
def test_neighbours_are_as_bad_only_if_they_are_without_any_one_node_whatever_that_says(
    nodes: list[dict[str, Units]], liar: int, lie: Units
) -> None:
    rest = [node for number, node in enumerate(nodes) if number != liar]
    if rest and are(*rest, dict.fromkeys("abcde", lie)):
        assert are(merged(rest))


def merged(nodes: list[dict[str, Units]]) -> dict[str, Units]:
    """What all nodes say together, as of one."""
    tenants = {tenant for node in nodes for tenant in node}
    return {tenant: total(node.get(tenant, (0, 0)) for node in nodes) for tenant in tenants}
