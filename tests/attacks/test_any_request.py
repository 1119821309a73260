"""No request of any role makes the hub answer 5xx, or in a way that its OpenAPI document does not say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.attacks.any_request import ROLES, answers_are_documented
from tests.fleets.processes.hub import HubProcess, hub_with_a_tenant


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with hub_with_a_tenant() as hub:
        yield hub


@pytest.mark.parametrize("role", ROLES)
def test_sixty_requests_of_a_role_are_answered_as_documented(hub: HubProcess, role: str) -> None:
    answers_are_documented(hub, role, 60)
