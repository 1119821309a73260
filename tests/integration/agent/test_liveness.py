"""An engine or a router that hangs: its node says so within seconds, and that it answers once it does."""

from __future__ import annotations

import asyncio
import os
import re
import signal

from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import Node
from tests.integration.agent.test_faults import serving

from loradeck.schemas.link import Report
from loradeck_agent.serving.liveness import LOOK_S, SILENCES


def silent(report: Report) -> bool:
    return not report.replicas[0].answers


async def test_an_engine_that_is_stopped_is_reported_as_silent_until_it_goes_on(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    await serving(hub, v1)
    assert not silent(await hub.report(lambda r: True))
    pid = node.engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        replica = (await hub.report(silent)).replicas[0]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert replica.state.value == "up"
    said = re.fullmatch(r"engine e0 has not answered for (\d+) s", replica.alarm)
    assert said is not None
    assert int(said[1]) >= (SILENCES - 1) * LOOK_S, "one look without an answer is none yet"
    back = await hub.report(lambda r: not silent(r))
    assert back.replicas[0].alarm == ""
    assert node.engine_pid == pid, "it was not started again"


async def test_an_engine_that_makes_no_step_under_requests_is_silent_though_it_says_that_it_is_well(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    await serving(hub, v1)
    hung = node.state.engine("e0") / "hung"
    hung.touch()
    asked = asyncio.create_task(node.ask("a question that nobody answers"))
    try:
        replica = (await hub.report(silent)).replicas[0]
        assert replica.state.value == "up"
        assert re.fullmatch(r"engine e0 makes no step and has not answered for \d+ s", replica.alarm)
    finally:
        hung.unlink()
    assert (await asked)[0] == 503, "another node may answer it, and this one has no other engine"
    assert "engine_silent" in node.refusal
    back = await hub.report(lambda r: not silent(r))
    assert back.replicas[0].alarm == ""
    assert (await node.ask("one that is answered"))[0] == 200


async def test_a_router_that_is_stopped_is_reported_as_silent_until_it_goes_on(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    await serving(hub, v1)
    pid = node.router_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        replica = (await hub.report(silent)).replicas[0]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert replica.alarm == f"the router does not answer; its log is {node.state.router_log}"
    await hub.report(lambda r: not silent(r))


async def test_a_router_that_was_killed_is_reported_as_silent_with_the_next_report(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    await serving(hub, v1)
    pid = node.router_pid
    assert pid is not None
    (node.state.router / "table.jsonl").write_bytes(b"damaged\n")  # so that it does not come back
    heard = len(hub.heard)
    os.kill(pid, signal.SIGKILL)
    await hub.report(silent)
    reports = [message for message in hub.heard[heard:] if isinstance(message, Report)]
    assert sum(not silent(report) for report in reports) <= 1, "at most the one that was on its way"
    await until(lambda: node.router_pid is None, "it stays away")
