"""Two thousand machine-made requests of each role; tests/attacks has the sixty of every day."""

from __future__ import annotations

import pytest
from tests.attacks.any_request import ROLES, answers_are_documented
from tests.attacks.hub_process import hub_process


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "role", [pytest.param(role, marks=pytest.mark.drawn(seconds=40, group=role)) for role in ROLES]
)
def test_two_thousand_requests_of_a_role_are_answered_as_documented(role: str) -> None:
    with hub_process() as hub:
        answers_are_documented(hub, role, 2000)
