"""Access: what a caller may do at a tenant, by the roles and the resources of its token, or by a person's sign-in.

People sign in at a provider (OpenID Connect): what a token of it still allows, and what its groups allow. All times are
milliseconds since 1970 UTC, by the hub's clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.ids import Role
from loradeck.schemas.sign_in import GroupGrant


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What a token allows.

    Args:
        role: its role; where `tenants` names roles, the highest of them.
        tenants: tenant -> the role there, and none anywhere else. None: `role` at all tenants and for the fleet.
        resources: the resources that it is for; None: for all.
        backward: only calls that put something back (R, F, hold), and reads.
    """

    role: Role
    tenants: Mapping[str, Role] | None = None
    resources: frozenset[str] | None = None
    backward: bool = False


@dataclass(frozen=True, kw_only=True)
class Action:
    """A call: the resource that it belongs to, the least role that it needs, whether agents make it too, and whether
    it puts something back (R, F, hold).
    """

    resource: str
    least: Role
    agent: bool = False
    backward: bool = False

    @property
    def is_backward(self) -> bool:
        """Whether it puts something back, or only reads."""
        return self.backward or self.least is Role.VIEWER


def role_at(scope: Scope, tenant: str) -> Role | None:
    """The role that a scope has at a tenant, or for the fleet (''); None: it has none there."""
    return scope.role if scope.tenants is None else scope.tenants.get(tenant)


def may(scope: Scope, action: Action, tenant: str) -> bool:
    """Tells whether a scope allows an action at a tenant, or for the fleet ('')."""
    role = role_at(scope, tenant)
    if role is None or (scope.resources is not None and action.resource not in scope.resources):
        return False
    if scope.backward and not action.is_backward:
        return False
    return action.agent if role is Role.AGENT else role.covers(action.least)


def may_somewhere(scope: Scope, action: Action) -> bool:
    """Tells whether there is a tenant at which a scope allows an action."""
    return any(may(scope, action, tenant) for tenant in ([""] if scope.tenants is None else scope.tenants))


def highest(roles: Iterable[Role]) -> Role:
    """The role that covers all of these; there is one at least, and no agent's among others."""
    return max(roles, key=list(Role).index)


def lowest(roles: Iterable[Role]) -> Role:
    """The role that all of these cover; there is one at least, and no agent's among others."""
    return min(roles, key=list(Role).index)


SILENT_MS = 45_000
"""A provider that has not answered for so long is silent. The hub asks it every 15 seconds."""

SILENCE_MS = DAY_MS
"""How long the backward actions outlast the provider's silence, and how recent a sign-in has to be for it."""


SIGNED_IN = "oidc:"
"""What the id of a person's sign-in begins with; the provider's subject follows."""


def person(token: str | None, name: str, *, people_sign_in: bool) -> str | None:
    """Says who a caller is where two people are asked for; None: nobody, it is a machine or the hub's own host.

    Args:
        token: the id of its token; of somebody who has signed in, `SIGNED_IN` and the subject.
        name: its name. Where nobody signs in, that of a token is all that is known of a person.
    """
    if not people_sign_in:
        return name
    return token if token is not None and token.startswith(SIGNED_IN) else None


class SignInScope(StrEnum):
    """What is left of a sign-in."""

    ALL = "all"  # what its groups allow
    BACKWARD = "backward"  # R, F and hold of that, and what a viewer may
    NOTHING = "nothing"


def sign_in_scope(now_ms: int, verified_ms: int, expires_ms: int, answered_ms: int | None) -> SignInScope:
    """Decides what a verified sign-in still allows: everything, backward moves only, or nothing.

    An expired one allows nothing while the provider answers: whoever may still sign in gets a new one there. While
    the provider is silent nobody can, so that who was signed in within a day before keeps the actions that put things
    back, for a day.

    Args:
        verified_ms: when the hub last saw it before it expired.
        answered_ms: when the provider, which does not answer now, last answered the hub. None: it answers, or the hub
            has not asked since its own start.
    """
    if now_ms < expires_ms:
        return SignInScope.ALL
    if answered_ms is None:
        return SignInScope.NOTHING
    silence = now_ms - answered_ms
    if SILENT_MS <= silence < SILENCE_MS and answered_ms - verified_ms < SILENCE_MS:
        return SignInScope.BACKWARD
    return SignInScope.NOTHING


def scope_of(groups: Iterable[str], grants: Mapping[str, GroupGrant]) -> Scope | None:
    """The scope of somebody in these groups; None: none of them allows anything.

    At each tenant the highest role of the groups counts. Somebody with a role at all tenants has that one
    everywhere, and higher ones of groups for some tenants do not count.
    """
    given = [grants[group] for group in groups if group in grants]
    everywhere = [grant.role for grant in given if grant.tenants is None]
    if everywhere:
        return Scope(role=highest(everywhere))
    at: dict[str, list[Role]] = {}
    for grant in given:
        for tenant in grant.tenants or ():
            at.setdefault(tenant, []).append(grant.role)
    roles = {tenant: highest(found) for tenant, found in sorted(at.items())}
    return Scope(role=highest(roles.values()), tenants=roles) if roles else None
