"""A route's requests by the minute, from the command line, against a real hub and a node that reports."""

from __future__ import annotations

from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode

from loradeck.schemas.counts import RouteHistory


def test_requests_are_listed_in_steps_of_the_last_hours(desk: Desk, tenant: str, node: SmallNode) -> None:
    done = desk.run("route", "history", tenant, "--hours", "6")
    assert done.returncode == 0, done.stderr
    heading, *steps = done.stdout.splitlines()
    assert heading.split() == ["FROM", "REQ/S", "REQUESTS", "FAILED", "REFUSED", "BAD"]
    assert len(steps) == 18
    assert steps[-1].split()[-5:] == ["0.0", "0", "-", "-", "-"]
    found = RouteHistory.model_validate(desk.json("route", "history", tenant, "--hours", "6"))
    assert (found.tenant, found.at_ms // 60_000 - found.since) == (tenant, 360)


def test_a_route_that_does_not_exist_has_no_history(desk: Desk, tenant: str) -> None:
    done = desk.run("route", "history", tenant, "staging")
    assert done.returncode != 0
    assert "staging" in done.stderr
