"""A seeded console state with its clock in the test's hands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Clock

from loradeck.schemas.feed import FeedTenants
from loradeck.schemas.state import TenantRow
from loradeck.tui.key_checks.rollback import shown_of
from loradeck.tui.key_checks.seen_frames import Frame
from loradeck.tui.model.state import ConsoleState

ACME = ("acme", "production")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> ConsoleState:
    """The seeded fleet, acme selected."""
    made = ConsoleState(clock=clock)
    list(made.loading(seed.hub_state()))
    made.tenant_list.choose(ACME)
    return made


@pytest.fixture
def armed(state: ConsoleState, clock: Clock) -> Callable[[], Frame]:
    """A frame with the selected row's preview that has been seen for a second."""

    def frame() -> Frame:
        assert state.row is not None
        return Frame(shown_of(state.row), None, clock() - 1.1, clock() - 1.0)

    return frame


def put(state: ConsoleState, row: TenantRow) -> None:
    """The feed brings a row."""
    state.apply(FeedTenants(rows=(row,)))
