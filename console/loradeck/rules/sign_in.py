"""People who sign in at a provider (OpenID Connect): what a token still allows, and what its groups allow.

All times are milliseconds since 1970 UTC, by the hub's clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from loradeck.rules.access import Scope, highest
from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.ids import Role

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


def allowed(now_ms: int, verified_ms: int, expires_ms: int, answered_ms: int | None) -> SignInScope:
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


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a group allows: a role at some tenants. `tenants` None: at all of them and for the fleet."""

    role: Role
    tenants: frozenset[str] | None = None


def scope_of(groups: Iterable[str], grants: Mapping[str, Grant]) -> Scope | None:
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
