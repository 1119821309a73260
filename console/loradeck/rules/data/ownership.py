"""Ownership of bases: whose jobs made one, and so who may serve it or train on it."""

from collections.abc import Iterable, Mapping, Sequence

from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import BaseLineage
from loradeck.schemas.manifest import Release

Made = Mapping[str, Sequence[BaseLineage]]
"""Base -> what jobs made it from; several where jobs gave the same weights."""


def owners(base: str, *, made: Made, releases: Iterable[Release], registered_for: str | None = None) -> frozenset[str]:
    """Lists the tenants that own a base: their jobs made it, it is registered for one, or as their merged weights.

    The first of these that is known counts. A base that nobody owns, as one from a publisher, is for every tenant.
    """
    by_job = {lineage.tenant for lineage in made.get(base, ())}
    if by_job or registered_for is not None:
        return frozenset(by_job or {registered_for or ""})
    return frozenset(release.tenant for release in releases if release.merged == base)


def check_use(tenant: str, base: str, *, owned_by: frozenset[str], name: str) -> None:
    """Checks that a tenant may serve a base or train on it. `name`: the base's name in messages.

    Raises: Refused: `wrong_tenant`.
    """
    if owned_by and tenant not in owned_by:
        raise Refused(
            "wrong_tenant",
            f"base {name} was made from another tenant's data",
            detail=f"{name} is of {', '.join(sorted(owned_by))}, not of {tenant}",
            fix=f"use a base of {tenant}'s own, or one that no tenant's job made",
        )


def check_claim(tenant: str, base: str, *, owned_by: frozenset[str], releases: Iterable[Release], name: str) -> None:
    """Checks that a base may become a tenant's own: it is nobody else's, and no other tenant has a release on it.

    Raises: Refused: `wrong_tenant`.
    """
    if tenant in owned_by:
        return
    check_use(tenant, base, owned_by=owned_by, name=name)
    others = {release.tenant for release in releases if base in (release.base, release.merged)} - {tenant}
    if others:
        raise Refused(
            "wrong_tenant",
            f"base {name} cannot become {tenant}'s own: other tenants have releases on it",
            detail=", ".join(sorted(others)),
            fix="name the weights that the job made",
        )
