"""Access: what a caller may do at a tenant, by the roles and the resources of its token."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loradeck.schemas.ids import Role


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
