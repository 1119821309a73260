"""Which adapter version was trained on from which."""

from __future__ import annotations

from collections.abc import Mapping

from loradeck.schemas.manifest import AdapterVersion


def ancestors(version: AdapterVersion, versions: Mapping[str, AdapterVersion]) -> list[AdapterVersion]:
    """What a version was trained on from, the nearest first, as far as it is on record.

    Args:
        versions: all that are known, by their digest.
    """
    found: list[AdapterVersion] = []
    seen = {version.digest}
    parent = version.manifest.parent
    while parent is not None and parent in versions and parent not in seen:
        seen.add(parent)
        found.append(versions[parent])
        parent = versions[parent].manifest.parent
    return found


def children(version: AdapterVersion, versions: Mapping[str, AdapterVersion]) -> list[AdapterVersion]:
    """Versions that were trained on from one, in the order they were registered."""
    return [one for one in versions.values() if one.manifest.parent == version.digest]
