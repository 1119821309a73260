"""Engines that run only while something wants their base: started for a prepare, held after a move, then stopped."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import CANARIES, Adapter, entry, make_adapter, make_base
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.jobs import JobAssignment, PrepareSpec
from loradeck.schemas.link import Hello, Report
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.table import TableEntry
from loradeck_agent.host.state_folder import holder_of

KEYS = (CALLER_HASH,)
HOLD_S = 3600


@pytest.fixture
def two_bases(stopped: Node, base: Path) -> Node:
    """A node with an engine of each of two bases, both `wanted`; its agent is not started yet."""
    other = stopped.root / "other"
    make_base(other, seed=1)
    text = stopped.config.read_text()
    head = text[: text.index("[[engine]]")]
    settings = f"hold_prior_s = {HOLD_S}\n"
    engines = "".join(
        f'[[engine]]\nname = "{name}"\nbase = "{folder}"\nslots = 4\nstart = "wanted"\nmemory_gb = 40\n'
        for name, folder in (("a", base), ("b", other))
    )
    stopped.config.write_text(settings + head + engines)
    return stopped


@pytest.fixture
def x1(two_bases: Node, hub: FakeHub) -> Adapter:
    """An adapter of the other base."""
    from tests.integration.agent.fake_engine import base_digest

    made = make_adapter(base_digest(two_bases.root / "other"), 7)
    hub.add_release(made.release, made.manifest, made.files)
    return made


def runs(node: Node, name: str) -> int | None:
    """Pid of the engine's process."""
    return holder_of(node.state.engine_lock(name))


def states(report: Report) -> dict[str, EngineState]:
    return {replica.replica.removeprefix("gpu-01."): replica.state for replica in report.replicas}


def moved(made: TableEntry, *, ago_s: float = 0, left: Adapter | None = None) -> TableEntry:
    moved_ms = int((time.time() - ago_s) * 1000)
    return made.model_copy(update={"moved_ms": moved_ms, "left": left.ref if left else None})


def prepare(adapter: Adapter, *, job: str = "p1", swap: bool = False) -> JobAssignment:
    spec = PrepareSpec(tenant="acme", route="production", release=adapter.ref.id, expected_generation=1)
    return JobAssignment(id=job, lease=1, attempt=1, spec=spec, release=adapter.ref, canaries=CANARIES, swap=swap)


async def serving(hub: FakeHub, v1: Adapter, candidate: Adapter) -> TableEntry:
    """v1 is live and proven, and then a candidate is being prepared."""
    live = moved(entry(v1.ref, 1, keys=KEYS))
    await hub.desire(live)
    await hub.ack(live, "proven")
    await hub.desire(live.model_copy(update={"preparing": candidate.ref}))
    return live


async def test_an_engine_runs_once_something_wants_its_base_and_not_before(
    two_bases: Node, hub: FakeHub, v1: Adapter, x1: Adapter
) -> None:
    two_bases.start()
    first = await hub.report(lambda report: all(replica.base for replica in report.replicas))
    assert states(first) == {"a": EngineState.STOPPED, "b": EngineState.STOPPED}
    assert [replica.always for replica in first.replicas] == [False, False]
    live = moved(entry(v1.ref, 1, keys=KEYS))
    await hub.desire(live)
    await hub.ack(live, "proven")
    assert runs(two_bases, "a")
    assert not runs(two_bases, "b")
    said = await hub.report(lambda report: states(report)["a"] is EngineState.UP)
    assert states(said)["b"] is EngineState.STOPPED


async def test_a_prepare_starts_the_engine_and_the_left_one_is_held_for_its_time_and_then_stopped(
    two_bases: Node, hub: FakeHub, v1: Adapter, x1: Adapter
) -> None:
    two_bases.start()
    await serving(hub, v1, x1)
    await hub.give(prepare(x1))
    end = await hub.job_end("p1")
    assert end.event.type == "finished", end
    assert await two_bases.tokens("hello") == v1.tokens("hello")  # nothing moved
    left = runs(two_bases, "a")

    across = moved(entry(x1.ref, 2, keys=KEYS, beneath=(v1.ref,)), left=v1)
    await hub.desire(across)
    await hub.ack(across, "proven")
    assert await two_bases.tokens("hello") == x1.tokens("hello")
    await hub.report(lambda report: states(report) == {"a": EngineState.UP, "b": EngineState.UP})

    # Back within the time: the left engine was never stopped.
    back = moved(entry(v1.ref, 3, keys=KEYS), left=x1)
    await hub.desire(back)
    await hub.ack(back, "proven")
    assert await two_bases.tokens("hello") == v1.tokens("hello")
    assert runs(two_bases, "a") == left

    # The same move, longer ago than engines are held: the left one goes, the live one serves on.
    held = runs(two_bases, "b")
    assert held
    await hub.desire(moved(back, ago_s=HOLD_S - 600, left=x1))
    await hub.report(lambda report: states(report) == {"a": EngineState.UP, "b": EngineState.UP})
    assert runs(two_bases, "b") == held
    await hub.desire(moved(back, ago_s=HOLD_S + 1, left=x1))
    await hub.report(lambda report: states(report)["b"] is EngineState.STOPPED)
    await until(lambda: not runs(two_bases, "b"), "the left engine has ended")
    assert runs(two_bases, "a") == left
    assert await two_bases.tokens("hello") == v1.tokens("hello")


async def test_back_to_a_base_whose_engine_was_stopped_is_cold_and_its_start_was_measured(
    two_bases: Node, hub: FakeHub, v1: Adapter, x1: Adapter
) -> None:
    two_bases.start()
    live = moved(entry(v1.ref, 1, keys=KEYS))
    await hub.desire(live)
    await hub.ack(live, "proven")
    long_ago = moved(entry(x1.ref, 2, keys=KEYS, beneath=(v1.ref,)), ago_s=HOLD_S + 1, left=v1)
    await hub.desire(long_ago)
    await hub.ack(long_ago, "proven")
    stopped = await hub.report(lambda report: states(report)["a"] is EngineState.STOPPED)
    a = next(replica for replica in stopped.replicas if replica.replica == "gpu-01.a")
    assert a.start_s
    assert a.load_s
    assert a.base == v1.release.base
    back = moved(entry(v1.ref, 3, keys=KEYS), left=x1)
    await hub.desire(back)
    await hub.ack(back, "proven")
    assert await two_bases.tokens("hello") == v1.tokens("hello")


async def test_a_restarted_agent_adopts_what_is_wanted_and_ends_what_is_not(
    two_bases: Node, hub: FakeHub, v1: Adapter, x1: Adapter
) -> None:
    two_bases.start()
    across = moved(entry(x1.ref, 2, keys=KEYS, beneath=(v1.ref,)), left=v1)
    await hub.desire(across)
    await hub.ack(across, "proven")
    await hub.report(lambda report: set(states(report).values()) == {EngineState.UP})
    wanted, left = runs(two_bases, "b"), runs(two_bases, "a")
    await two_bases.end_agent()
    assert (runs(two_bases, "b"), runs(two_bases, "a")) == (wanted, left)
    hub.entries["acme", "production"] = moved(across, ago_s=HOLD_S + 1, left=v1)
    hub.rev += 1
    heard = len(hub.heard)
    two_bases.start()
    await hub.wait(Hello, after=heard)
    await until(lambda: not runs(two_bases, "a"), "the engine that nothing wants has ended")
    assert runs(two_bases, "b") == wanted
    await hub.report(lambda report: states(report) == {"a": EngineState.STOPPED, "b": EngineState.UP})
    assert await two_bases.tokens("hello") == x1.tokens("hello")


def limited(node: Node, memory_gb: int) -> Node:
    node.config.write_text(f"memory_gb = {memory_gb}\n" + node.config.read_text())
    return node


async def test_where_memory_holds_one_engine_a_prepare_fails_and_what_is_live_serves_on(
    two_bases: Node, hub: FakeHub, v1: Adapter, x1: Adapter
) -> None:
    limited(two_bases, 60).start()
    await serving(hub, v1, x1)
    before = runs(two_bases, "a")
    await hub.give(prepare(x1))
    end = await hub.job_end("p1")
    assert end.event.code == "no_memory"
    assert "gpu-01.b takes 40 GB, the node has 60" in end.event.message
    assert runs(two_bases, "a") == before
    assert not runs(two_bases, "b")
    assert await two_bases.tokens("hello") == v1.tokens("hello")


async def test_a_swap_stops_the_live_engine_first_and_the_way_back_starts_it_again(
    two_bases: Node, hub: FakeHub, v1: Adapter, x1: Adapter
) -> None:
    limited(two_bases, 60).start()
    await serving(hub, v1, x1)
    await hub.give(prepare(x1, swap=True))
    end = await hub.job_end("p1")
    assert end.event.type == "finished", end
    assert not runs(two_bases, "a")
    assert (await two_bases.ask("hello"))[0] == 503  # nothing answers until the move is committed
    across = moved(entry(x1.ref, 2, keys=KEYS, beneath=(v1.ref,)), left=v1)
    await hub.desire(across)
    await hub.ack(across, "proven")
    assert await two_bases.tokens("hello") == x1.tokens("hello")
    back = moved(entry(v1.ref, 3, keys=KEYS), left=x1)
    await hub.desire(back)
    await hub.ack(back, "proven")
    assert not runs(two_bases, "b")
    assert await two_bases.tokens("hello") == v1.tokens("hello")


async def test_a_swap_that_fails_brings_the_live_engine_back(
    two_bases: Node, hub: FakeHub, v1: Adapter, x1: Adapter
) -> None:
    (weights,) = (file for file in x1.manifest.files if file.path.endswith(".safetensors"))
    del hub.blobs[weights.sha256]
    limited(two_bases, 60).start()
    await serving(hub, v1, x1)
    await hub.give(prepare(x1, swap=True))
    end = await hub.job_end("p1")
    assert end.event.code == "unknown_blob"

    async def answers() -> bool:
        return (await two_bases.ask("hello"))[1] == v1.tokens("hello")

    await until(answers, "what is live answers again")
    await until(lambda: not runs(two_bases, "b"), "the other engine has ended")


async def test_a_swap_whose_promote_is_cancelled_brings_the_live_engine_back(
    two_bases: Node, hub: FakeHub, v1: Adapter, x1: Adapter
) -> None:
    limited(two_bases, 60).start()
    live = await serving(hub, v1, x1)
    await hub.give(prepare(x1, swap=True))
    end = await hub.job_end("p1")
    assert end.event.type == "finished", end
    assert not runs(two_bases, "a")
    await hub.desire(live)

    async def answers() -> bool:
        return (await two_bases.ask("hello"))[1] == v1.tokens("hello")

    await until(answers, "what is live answers again")
    assert not runs(two_bases, "b")
