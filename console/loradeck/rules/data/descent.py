"""Descendants of rows: datasets made of them where they are judgements, adapters and bases trained on them, merged
weights, their releases, rows written by those, and what was trained on these.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from loradeck.rules.data.ownership import Made
from loradeck.rules.data.policy import DatedEntry
from loradeck.schemas.manifest import AdapterVersion, Release


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


NOTHING = Descent()


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
