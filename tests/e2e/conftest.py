"""The fleet of real processes that tests of a file share, laid anew for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fleets.processes.fleet import Material, fleet_at, lay, restore

from incident.fleet import Fleet
from incident.incident import Cast


@pytest.fixture(scope="module")
def laid(material: Material) -> Iterator[tuple[Fleet, Cast, str]]:
    with fleet_at(material.base, tls=True) as fleet:
        yield fleet, *lay(fleet, material)


@pytest.fixture
def scene(laid: tuple[Fleet, Cast, str]) -> Iterator[tuple[Fleet, Cast, str]]:
    """A fleet as it was laid: honest, with v2 live on every node and v1 beneath."""
    yield laid
    fleet, cast, _ = laid
    restore(fleet, cast)
