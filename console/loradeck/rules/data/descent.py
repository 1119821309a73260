"""Descendants of rows: adapters trained on them, their releases, rows written by those, and what was trained on
these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from loradeck.rules.data.policy import Kept
from loradeck.schemas.manifest import AdapterVersion
from loradeck.schemas.release import Release


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Digests of the descendants of some rows.

    `datasets` holds the datasets with the rows themselves, and those whose rows a descending release wrote.
    """

    datasets: frozenset[str] = frozenset()
    adapters: frozenset[str] = frozenset()
    releases: frozenset[str] = frozenset()


NOTHING = Descent()


def descent(
    datasets: Collection[str],
    *,
    adapters: Iterable[AdapterVersion],
    releases: Mapping[str, Release],
    ledger: Mapping[str, Kept],
) -> Descent:
    """Computes everything that descends from some datasets, over any number of generations.

    Merged weights descend from their adapter. A fully trained base does not count: its training data is not recorded
    here.
    """
    versions = {version.digest: version for version in adapters}
    found_data, found_adapters, found_releases = set(datasets), set[str](), set[str]()
    while True:
        before = len(found_data), len(found_adapters), len(found_releases)
        for digest, version in versions.items():
            manifest = version.manifest
            if manifest.parent in found_adapters or not found_data.isdisjoint(manifest.datasets):
                found_adapters.add(digest)
        found_releases.update(r for r, release in releases.items() if release.adapter in found_adapters)
        found_data.update(d for d, kept in ledger.items() if not found_releases.isdisjoint(kept.entry.generators))
        if before == (len(found_data), len(found_adapters), len(found_releases)):
            break
    return Descent(
        datasets=frozenset(found_data), adapters=frozenset(found_adapters), releases=frozenset(found_releases)
    )
