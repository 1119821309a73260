"""What descends from rows: adapters trained on them, their releases, what those wrote, and what was trained on that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from loradeck.rules.data.policy import Kept
from loradeck.schemas.manifest import AdapterVersion
from loradeck.schemas.release import Release


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Digests. `datasets`: those with the rows, and those that a release which descends from them wrote rows of."""

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
    """Everything that descends from some datasets: children's children too, however many times over.

    Weights that were merged descend from their adapter. A base does not: what it was made of is not known here.
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
