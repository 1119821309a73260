"""`loradeck sim fleet`: nodes that link with the agents' own code to a real hub, and leave nothing valid behind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.fleets.processes.hub import LORADECK, HubProcess
from tests.integration.cli.conftest import Desk, running

from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.state import HubState, PreviewAction


@pytest.fixture
def own() -> Iterator[Desk]:
    """A running hub of the test's own."""
    with running() as desk:
        yield desk


class _Sim:
    """The command, line by line."""

    def __init__(self, desk: Desk, *words: str) -> None:
        command = [str(LORADECK), "--hub", f"unix:{desk.socket}", "sim", "fleet", "--json", "--link", desk.url, *words]
        self.process = subprocess.Popen(
            command, env=desk.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            status: dict[str, Any] = json.loads(line)
            if wanted(status):
                return status
        assert self.process.stderr is not None
        raise AssertionError(f"it ended with {self.process.wait()}: {self.process.stderr.read()}")

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode


def _state(desk: Desk) -> HubState:
    async def ask() -> HubState:
        async with desk.api() as api:
            return await api.state()

    return asyncio.run(ask())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_fleet_stands_answers_moves_and_is_gone_when_interrupted(own: Desk, number: signal.Signals) -> None:
    sim = _Sim(own, "--nodes", "5", "--tenants", "4", "--report-every", "0.2")
    try:
        stands = sim.until(lambda status: status["phase"] == "standing")
        assert (stands["linked"], stands["live"], stands["tenants"]) == (5, 5, 5)
        state = _state(own)
        rows = {row.tenant: row for row in state.tenants}
        on = [node.labels["rack"] for node in state.nodes]
        placed = {f"sim-{n:04}": on.count(f"r{n % 2:04}") for n in (1, 2, 3, 4)}
        assert {name: row.placed for name, row in rows.items()} == {"sim-everywhere": 5, **placed}
        assert min(placed.values()) >= 2
        assert all(row.proven == row.placed and row.preview.action is PreviewAction.ROLLBACK for row in rows.values())
        assert all(len(node.gpus) == 8 for node in state.nodes if node.host is not None)
        row = rows["sim-everywhere"]
        assert row.preview.target is not None

        async def back() -> Any:
            request = rollback_request(row.preview, key="sim-everywhere-back", confirmed=True)
            async with own.api() as api:
                return await api.send("sim-everywhere", "production", request, wait="proven", timeout=60)

        assert asyncio.run(back()).reached == "proven"
        assert sim.until(lambda status: status["reports"] > stands["reports"])
    finally:
        status = sim.end(number)
    assert status == 0
    assert all(record["revoked"] for record in own.json("token", "ls") if record["name"].startswith("sim-"))
    assert len(own.json("token", "ls")) == 5


def test_a_second_run_finds_what_the_first_one_made(own: Desk) -> None:
    for _ in range(2):
        sim = _Sim(own, "--nodes", "2", "--tenants", "1")
        try:
            sim.until(lambda status: status["phase"] == "standing")
            assert {row.tenant: row.pointer.generation for row in _state(own).tenants} == {
                "sim-0001": 2,
                "sim-everywhere": 2,
            }
        finally:
            assert sim.end(signal.SIGINT) == 0


def test_a_production_hub_is_left_alone(own: Desk) -> None:
    own.stop_hub()
    hub = HubProcess(own.hub.data, "--production", env=own.env)
    try:
        hub.start()
        problem = own.refused(1, "production", "--hub", f"unix:{own.socket}", "sim", "fleet")
        assert "production hub" in problem["title"]
        assert own.json("--hub", f"unix:{own.socket}", "token", "ls") == []
    finally:
        hub.end(signal.SIGTERM)


def test_over_tcp_it_is_refused_because_tokens_are_made_on_the_hubs_host(own: Desk) -> None:
    token = own.token("releaser")
    problem = own.refused(2, "usage", "--hub", own.url, "--token-file", token, "sim", "fleet")
    assert "own socket" in problem["title"]


def test_nodes_that_cannot_reach_the_hub_are_told_of_and_their_tokens_revoked(own: Desk) -> None:
    sim = _Sim(own, "--nodes", "1", "--tenants", "0", "--link", "http://127.0.0.1:9")
    try:
        status = sim.until(lambda status: bool(status["error"]))
        assert "cannot be reached" in status["error"]
        assert status["linked"] == 0
    finally:
        assert sim.end(signal.SIGINT) == 0
    assert [record["revoked"] for record in own.json("token", "ls")] == [True]
