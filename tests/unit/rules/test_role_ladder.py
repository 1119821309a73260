"""Each role may do what the ones before it may; an agent stands apart."""

from __future__ import annotations

import itertools

from loradeck.schemas.ids import Role


def test_a_role_covers_itself_and_the_ones_before_it() -> None:
    ladder = (Role.VIEWER, Role.OPERATOR, Role.RELEASER)
    for (i, role), (j, least) in itertools.product(enumerate(ladder), repeat=2):
        assert role.covers(least) is (i >= j)


def test_an_agent_covers_and_is_covered_by_no_other() -> None:
    assert Role.AGENT.covers(Role.AGENT)
    for role in set(Role) - {Role.AGENT}:
        assert not role.covers(Role.AGENT)
        assert not Role.AGENT.covers(role)
