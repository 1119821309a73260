"""Lineage of adapter versions: which one was trained on from which."""

from collections.abc import Mapping

from loradeck.schemas.manifest import AdapterVersion


def ancestors(version: AdapterVersion, versions: Mapping[str, AdapterVersion]) -> list[AdapterVersion]:
    """The known versions that one was trained on from, nearest first. `versions`: all known ones, by their digest."""
    found: list[AdapterVersion] = []
    seen = {version.digest}
    parent = version.manifest.parent
    while parent is not None and parent in versions and parent not in seen:
        seen.add(parent)
        found.append(versions[parent])
        parent = versions[parent].manifest.parent
    return found


def children(version: AdapterVersion, versions: Mapping[str, AdapterVersion]) -> list[AdapterVersion]:
    """Versions that were trained on from a version, in the order of registration."""
    return [one for one in versions.values() if one.manifest.parent == version.digest]
