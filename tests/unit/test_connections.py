"""Whose connection ends where there is room for no more: the idlest of whoever holds most."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from loradeck.strangers.connections import Connections, Owner


class Connection(asyncio.Protocol):
    """One connection, and its own transport."""

    def __init__(self, owner: Owner) -> None:
        self.owner, self.is_ended = owner, False

    def close(self) -> None:
        self.is_ended = True


def opened(connections: Connections, tenant: str, n: int, key: str = "k") -> list[Connection]:
    made = [Connection(Owner(tenant, key)) for _ in range(n)]
    for connection in made:
        connections.joins(connection, cast(Any, connection), connection.owner)
    return made


def ended(connections: Connections, among: list[Connection], n: int) -> list[int]:
    """The places of those that end, in this order, as room is made so many times."""
    order = list[int]()
    for _ in range(n):
        assert connections.make_room()
        order += [place for place, one in enumerate(among) if one.is_ended and place not in order]
    return order


def test_the_one_that_was_idle_for_longest_of_the_tenant_that_holds_most_ends() -> None:
    connections = Connections()
    acme, beta = opened(connections, "acme", 3), opened(connections, "beta", 5)
    assert ended(connections, beta, 2) == [0, 1]
    assert not any(one.is_ended for one in acme)
    assert len(connections) == 6


def test_each_loses_in_turn_once_all_hold_as_many() -> None:
    connections = Connections()
    acme, beta = opened(connections, "acme", 3), opened(connections, "beta", 3)
    ended(connections, [*acme, *beta], 4)
    assert sum(one.is_ended for one in acme) == sum(one.is_ended for one in beta) == 2


def test_of_a_tenants_keys_the_one_that_holds_most_loses() -> None:
    connections = Connections()
    few, many = opened(connections, "beta", 2, "few"), opened(connections, "beta", 4, "many")
    ended(connections, many, 2)
    assert not any(one.is_ended for one in few)


def test_one_with_a_request_under_way_stays_and_is_the_last_to_end_after_it() -> None:
    connections = Connections()
    beta = opened(connections, "beta", 3)
    connections.begins(beta[0])
    assert ended(connections, beta, 1) == [1]
    connections.rests(beta[0])
    assert ended(connections, beta, 2)[1:] == [2, 0]


def test_where_all_of_the_largest_are_under_way_the_next_one_loses() -> None:
    connections = Connections()
    acme, beta = opened(connections, "acme", 2), opened(connections, "beta", 4)
    for one in beta:
        connections.begins(one)
    assert ended(connections, acme, 1) == [0]
    for one in beta[:1]:
        connections.rests(one)
    assert ended(connections, beta, 1) == [0], "they still hold most"


def test_there_is_no_room_where_all_have_a_request_under_way() -> None:
    connections = Connections()
    assert not connections.make_room()
    for one in opened(connections, "beta", 2):
        connections.begins(one)
    assert not connections.make_room()
    assert connections.ended == 0


def test_what_is_over_counts_no_more_however_often_that_is_said() -> None:
    connections = Connections()
    beta, acme = opened(connections, "beta", 3), opened(connections, "acme", 2)
    for one in beta[:2]:
        connections.leaves(one)
        connections.leaves(one)
        connections.rests(one)
    assert len(connections) == 3
    assert ended(connections, acme, 1) == [0]


def test_a_thousand_tenants_that_come_and_go_leave_nothing_behind() -> None:
    connections = Connections()
    for number in range(1000):
        for one in opened(connections, f"t{number}", 3):
            connections.leaves(one)
    assert (len(connections), connections.make_room()) == (0, False)
    assert len(connections._most) + len(connections._of_tenant) + len(connections._keys) < 100


def test_it_says_who_holds_most_and_by_which_key_while_connections_end(caplog: pytest.LogCaptureFixture) -> None:
    connections = Connections()
    assert connections.trouble == ""
    opened(connections, "acme", 1)
    beta = opened(connections, "beta", 9, "0123456789abcdef")
    ended(connections, beta, 3)
    assert "beta holds 6 of 7, 6 of them by the key 0123456789ab" in connections.trouble
    assert len([r for r in caplog.records if "no room" in r.getMessage()]) == 1, "once a minute"
