"""Two thousand machine-made requests of each role; tests/attacks has the sixty of every day."""

from __future__ import annotations

import pytest
from tests.attacks.any_request import ROLES, answers_are_documented
from tests.fleets.processes.hub import hub_with_a_tenant


@pytest.mark.timeout(900)
@pytest.mark.parametrize("role", ROLES)
def test_two_thousand_requests_of_a_role_are_answered_as_documented(role: str) -> None:
    with hub_with_a_tenant() as hub:
        answers_are_documented(hub, role, 2000)
