"""What a node says from which the hub tells how near a way back is: adapters on disk, bases, and measured times."""

from __future__ import annotations

import os
import signal

from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.link import Hello
from loradeck.schemas.replica_state import EngineState

KEYS = (CALLER_HASH,)


async def test_adapters_on_disk_and_measured_times_are_reported_and_outlive_the_agent(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter, base_digest: str
) -> None:
    first = await hub.report(lambda report: report.replicas[0].start_s is not None)
    assert first.replicas[0].start_s > 0  # from the engine's start until it answered
    assert (first.replicas[0].load_s, first.replicas[0].fetch_s) == (None, None)
    await hub.desire(entry(v2.ref, 2, keys=KEYS, beneath=(v1.ref,)))
    both = {v1.manifest.digest, v2.manifest.digest}
    await hub.report(lambda _: hub.stored == both)
    loaded = await hub.report(lambda report: set(report.replicas[0].loaded) == {v1.ref.id, v2.ref.id})
    (replica,) = loaded.replicas
    assert replica.base == base_digest
    assert replica.fetch_s is not None
    assert replica.load_s is not None
    await hub.report(lambda report: (report.stored, report.stored_added) == (None, ()))  # once, not every second

    heard = len(hub.heard)
    await node.end_agent()
    node.start()
    again = await hub.wait(Hello, after=heard)
    assert again.stored == tuple(sorted(both))
    adopted = await hub.report(lambda report: report.replicas[0].state is EngineState.UP)
    assert adopted.replicas[0].start_s == first.replicas[0].start_s  # it was adopted, not started again
    assert adopted.replicas[0].load_s == replica.load_s


async def test_a_replica_keeps_its_base_while_its_engine_is_away(node: Node, hub: FakeHub, base_digest: str) -> None:
    pid = node.engine_pid
    assert pid is not None
    (node.state.engine("e0") / "unhealthy").touch()
    os.kill(pid, signal.SIGKILL)
    away = await hub.report(lambda report: report.replicas[0].state is not EngineState.UP)
    assert away.replicas[0].base == base_digest


async def test_a_replica_has_its_base_before_its_engine_answers(stopped: Node, hub: FakeHub, base_digest: str) -> None:
    stopped.state.engine("e0").mkdir(parents=True, mode=0o700)
    (stopped.state.engine("e0") / "unhealthy").touch()  # it starts and does not become ready
    stopped.start()
    report = await hub.report(lambda report: report.replicas[0].base is not None)
    assert report.replicas[0].state is EngineState.STARTING
    assert report.replicas[0].base == base_digest
