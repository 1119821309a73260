"""What is left of a sign-in, and what the groups of a provider allow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.access import (
    SILENCE_MS,
    SILENT_MS,
    Action,
    SignInScope,
    may,
    person,
    role_at,
    scope_of,
    sign_in_scope,
)
from loradeck.schemas.ids import Role
from loradeck.schemas.sign_in import GroupGrant

TIMES = st.integers(0, 4 * SILENCE_MS)
ANSWERS = st.none() | TIMES
PEOPLE = st.sampled_from([Role.VIEWER, Role.OPERATOR, Role.RELEASER])
TENANTS = st.sampled_from(["acme", "bolt", "core"])
GRANTS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.builds(GroupGrant, role=PEOPLE, tenants=st.none() | st.frozensets(TENANTS, min_size=1)),
)
GROUPS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]))


@given(TIMES, TIMES, TIMES, ANSWERS)
def test_a_token_that_has_not_expired_allows_all_whatever_the_provider_does(
    now: int, verified: int, expires: int, answered: int | None
) -> None:
    assert (sign_in_scope(now, verified, expires, answered) is SignInScope.ALL) is (now < expires)


@given(TIMES, TIMES, TIMES)
def test_an_expired_token_allows_nothing_while_the_provider_answers(now: int, verified: int, expires: int) -> None:
    if now >= expires:
        assert sign_in_scope(now, verified, expires, None) is SignInScope.NOTHING
        assert sign_in_scope(now, verified, expires, now) is SignInScope.NOTHING


@given(TIMES, TIMES, TIMES, TIMES)
def test_what_puts_back_is_kept_for_a_day_of_silence_and_no_longer(
    now: int, verified: int, expires: int, answered: int
) -> None:
    if sign_in_scope(now, verified, expires, answered) is SignInScope.BACKWARD:
        assert SILENT_MS <= now - answered < SILENCE_MS
        assert answered - verified < SILENCE_MS, "and only by who was signed in within a day before"
        assert now - verified < 2 * SILENCE_MS


@given(st.integers(SILENT_MS, SILENCE_MS - 1), st.integers(0, SILENCE_MS - 1), TIMES)
def test_who_was_signed_in_within_a_day_before_the_silence_can_put_back(
    silence: int, before: int, answered: int
) -> None:
    now = answered + silence
    assert sign_in_scope(now, answered - before, now, answered) is SignInScope.BACKWARD


@given(TIMES, TIMES, TIMES, st.integers(0, 4 * SILENCE_MS), st.integers(0, 4 * SILENCE_MS))
def test_more_silence_never_gives_back_what_was_lost(
    start: int, verified: int, answered: int, first: int, more: int
) -> None:
    expires, now = start, max(start, answered + SILENT_MS) + first
    if sign_in_scope(now, verified, expires, answered) is SignInScope.NOTHING:
        assert sign_in_scope(now + more, verified, expires, answered) is SignInScope.NOTHING


@given(GROUPS, GRANTS)
def test_a_role_comes_from_a_group_that_gives_it_there(groups: list[str], grants: dict[str, GroupGrant]) -> None:
    scope = scope_of(groups, grants)
    given_ = [grants[group] for group in groups if group in grants]
    assert (scope is None) is (not given_)
    if scope is None:
        return
    for tenant in ("acme", "bolt", "core", ""):
        there = [one.role for one in given_ if one.tenants is None or tenant in one.tenants]
        role = role_at(scope, tenant)
        assert role is None or role in there
        assert (role is None) is (not there)


@given(GROUPS, GRANTS, st.lists(st.text(max_size=3)))
def test_groups_without_a_grant_change_nothing(
    groups: list[str], grants: dict[str, GroupGrant], others: list[str]
) -> None:
    unknown = [group for group in others if group not in grants]
    assert scope_of([*unknown, *groups], grants) == scope_of(groups, grants)


@given(GROUPS, GRANTS, PEOPLE, st.booleans(), TENANTS)
def test_the_backward_part_of_a_scope_is_reads_and_what_puts_back(
    groups: list[str], grants: dict[str, GroupGrant], least: Role, backward: bool, tenant: str
) -> None:
    scope = scope_of(groups, grants)
    if scope is None:
        return
    left = type(scope)(role=scope.role, tenants=scope.tenants, backward=True)
    action = Action(resource="moves", least=least, backward=backward)
    assert may(left, action, tenant) is (may(scope, action, tenant) and (backward or least is Role.VIEWER))


def test_where_people_sign_in_a_name_alone_is_nobody() -> None:
    assert person("t1", "ann", people_sign_in=False) == person(None, "ann", people_sign_in=False) == "ann"
    assert person("oidc:s-1", "ann", people_sign_in=True) == "oidc:s-1"
    assert person("t1", "oidc:s-1", people_sign_in=True) is None
    assert person(None, "root", people_sign_in=True) is None
