"""Access: roles at tenants, and resources."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.access import Action, Scope, highest, lowest, may, may_somewhere, role_at
from loradeck.schemas.ids import Resource, Role

PEOPLE = st.sampled_from([Role.VIEWER, Role.OPERATOR, Role.RELEASER])
TENANTS = st.sampled_from(["acme", "bolt", "core"])
RESOURCES = st.sampled_from([resource.value for resource in Resource])
ACTIONS = st.builds(Action, resource=RESOURCES, least=PEOPLE, agent=st.booleans())


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    tenants = draw(st.none() | st.dictionaries(TENANTS, PEOPLE, min_size=1))
    role = draw(PEOPLE) if tenants is None else highest(tenants.values())
    return Scope(role=role, tenants=tenants, resources=draw(st.none() | st.frozensets(RESOURCES)))


@given(scopes(), ACTIONS, TENANTS | st.just(""))
def test_a_scope_allows_nothing_at_a_tenant_that_it_does_not_name(scope: Scope, action: Action, tenant: str) -> None:
    if scope.tenants is not None and tenant not in scope.tenants:
        assert role_at(scope, tenant) is None
        assert not may(scope, action, tenant)


@given(scopes(), ACTIONS, TENANTS)
def test_a_scope_allows_nothing_beyond_its_resources(scope: Scope, action: Action, tenant: str) -> None:
    if scope.resources is not None and action.resource not in scope.resources:
        assert not may(scope, action, tenant)
        assert not may_somewhere(scope, action)


@given(PEOPLE, ACTIONS, TENANTS | st.just(""))
def test_a_token_of_an_earlier_version_allows_what_its_role_does(role: Role, action: Action, tenant: str) -> None:
    assert may(Scope(role=role), action, tenant) is role.covers(action.least)


@given(scopes(), ACTIONS, TENANTS, TENANTS)
def test_another_tenant_in_a_scope_changes_nothing_at_this_one(
    scope: Scope, action: Action, tenant: str, other: str
) -> None:
    if scope.tenants is None or tenant == other:
        return
    wider = Scope(role=scope.role, tenants={**scope.tenants, other: Role.VIEWER}, resources=scope.resources)
    assert may(wider, action, tenant) is may(scope, action, tenant)


@given(scopes(), ACTIONS, TENANTS)
def test_what_is_allowed_somewhere_is_allowed_at_a_tenant_of_the_scope(
    scope: Scope, action: Action, tenant: str
) -> None:
    if may(scope, action, tenant):
        assert may_somewhere(scope, action)
    if scope.tenants is not None:
        assert may_somewhere(scope, action) is any(may(scope, action, one) for one in scope.tenants)


@given(ACTIONS, TENANTS | st.just(""))
def test_an_agent_makes_the_calls_of_agents_alone(action: Action, tenant: str) -> None:
    assert may(Scope(role=Role.AGENT), action, tenant) is action.agent


@given(st.lists(PEOPLE, min_size=1))
def test_the_highest_role_covers_all_and_all_cover_the_lowest(roles: list[Role]) -> None:
    assert all(highest(roles).covers(role) and role.covers(lowest(roles)) for role in roles)
