"""A promote that is asked about, on a node whose slots no other tenant takes: it has a hub of its own."""

from __future__ import annotations

from tests.fleets.waiting import wait_until
from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode


def test_a_promote_with_yes_says_what_it_would_have_asked(desk: Desk, tenant: str, node: SmallNode) -> None:
    desk.json("route", "set", tenant, "--residency", "on-demand", "--reason", "seldom used")
    node.slots = 1
    asks = "It asks because: prior cold."
    wait_until("the node says that it has one slot", lambda: asks in desk.run("promote", tenant, "v3").stderr)
    done = desk.process("promote", tenant, "v3", "--yes", "--wait", "committed")
    assert (done.returncode, "prior cold" in done.stdout) == (0, True), done.stdout + done.stderr
