"""Two thousand machine-made requests of each role; tests/attacks has the sixty of every day."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.attacks.any_request import ROLES, answers_are_documented
from tests.fleets.processes.hub import HubProcess, hub_with_a_tenant


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with hub_with_a_tenant() as hub:
        yield hub


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "role", [pytest.param(role, marks=pytest.mark.drawn(seconds=40, group=role)) for role in ROLES]
)
def test_two_thousand_requests_of_a_role_are_answered_as_documented(hub: HubProcess, role: str) -> None:
    answers_are_documented(hub, role, 2000)
