"""Lineage: who owns a base, since its jobs made it, which weights a job made, and what descends from rows.

Whole weights are releases of every weight of a model, which a job trained or merged. Like the base alone they are
served by an engine that runs them, and trained ones have the form `base` as well. They differ by their lineage: weights
that a job made are a release like an adapter version, and the base alone is what F goes to.

Descendants of rows are datasets made of them where they are judgements, adapters and bases trained on them, merged
weights, their releases, rows written by those, and what was trained on these.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from loradeck.rules.data.policy import DatedEntry
from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import BaseLineage
from loradeck.schemas.manifest import AdapterVersion, Form, Release

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


def is_base_alone(release: Release, made: Made) -> bool:
    """Tells whether a release is the base alone, a publisher's and nothing that a job made: never quarantined."""
    return release.form is Form.BASE and not made.get(release.base)


def falls_back_to(release: Release, made: Made) -> str:
    """The base to which F goes from a release: what its adapter is for, or what its weights were trained on."""
    origins = made.get(release.base, ()) if release.form is Form.BASE else ()
    return origins[0].base if origins else release.base


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Digests of the descendants of some rows.

    `datasets` holds the datasets with the rows themselves, those made of such judgements, and those whose rows a
    descending release wrote.
    """

    datasets: frozenset[str] = frozenset()
    bases: frozenset[str] = frozenset()
    adapters: frozenset[str] = frozenset()
    releases: frozenset[str] = frozenset()


NO_DESCENT = Descent()


def descent(
    datasets: Collection[str],
    *,
    adapters: Iterable[AdapterVersion],
    releases: Mapping[str, Release],
    ledger: Mapping[str, DatedEntry],
    made: Made,
    judged: Mapping[str, str],
) -> Descent:
    """Computes everything that descends from some datasets, over any number of generations.

    `judged`: dataset -> the dataset of judgements that it was made of.

    A base descends through what a job made it from, and through the adapter whose merged weights it is registered as.
    """
    versions = {version.digest: version for version in adapters}
    found_data, found_bases, found_adapters, found_releases = set(datasets), set[str](), set[str](), set[str]()
    while True:
        before = len(found_data), len(found_bases), len(found_adapters), len(found_releases)
        for digest, version in versions.items():
            manifest = version.manifest
            descends = manifest.parent in found_adapters or manifest.base in found_bases
            if descends or not found_data.isdisjoint(manifest.datasets):
                found_adapters.add(digest)
        for base, origins in made.items():
            if any(
                one.base in found_bases or one.adapter in found_adapters or not found_data.isdisjoint(one.datasets)
                for one in origins
            ):
                found_bases.add(base)
        for digest, release in releases.items():
            if release.adapter in found_adapters and release.merged is not None:
                found_bases.add(release.merged)
            if release.adapter in found_adapters or not found_bases.isdisjoint((release.base, release.served_base)):
                found_releases.add(digest)
        found_data.update(d for d, judgements in judged.items() if judgements in found_data)
        found_data.update(d for d, kept in ledger.items() if not found_releases.isdisjoint(kept.entry.generators))
        if before == (len(found_data), len(found_bases), len(found_adapters), len(found_releases)):
            break
    return Descent(
        datasets=frozenset(found_data),
        bases=frozenset(found_bases),
        adapters=frozenset(found_adapters),
        releases=frozenset(found_releases),
    )
