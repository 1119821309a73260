"""Jobs over the ends of agents, hubs and links, and what is kept of them: each test has a node of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import cast

import pytest
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry, make_adapter
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.jobs import evaluate, prepare, started, train
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.artifacts import base_manifest
from loradeck.artifacts.staging import remove
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.link import Ack, Hello, JobEvent, JobsBackend
from loradeck.schemas.manifest import (
    BaseManifest,
    DatasetManifest,
    SuiteManifest,
)
from loradeck.schemas.training import Weights
from loradeck_agent.host.errors import AgentError
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder, sweep
from loradeck_agent.jobs.results import keep_trained
from loradeck_agent.store.checkpoints import KEPT_S, CheckpointStore
from loradeck_agent.uplink.hub_api import HubApi

KEYS = (CALLER_HASH,)


def test_a_trained_base_is_known_by_its_digest_and_one_that_was_changed_is_refused(tmp_path: Path) -> None:
    weights, out = tmp_path / "merged", tmp_path / "out"
    weights.mkdir()

    def trained() -> BaseManifest:
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text("{}")
        (out / "model.safetensors").write_bytes(b"weights")
        made = base_manifest(out, "acme/tickets", "abc")
        (out / "manifest.json").write_text(made.model_dump_json())
        return made

    made = trained()
    place = weights / made.digest
    said = {"base": made.digest, "folder": str(place), "manifest": made.model_dump(mode="json")}
    (out / "weights").mkdir()
    (out / "config.json").rename(out / "weights" / "config.json")  # an agent before this one came that far
    assert keep_trained(out, weights) == said
    assert base_manifest(place, "-", "-").digest == made.digest
    beside = BaseManifest.model_validate_json((weights / f"{made.digest}.manifest.json").read_text())
    assert beside == made
    assert keep_trained(out, weights) == said, "its answer was lost"
    (place / "model.safetensors").write_bytes(b"heights")
    with pytest.raises(AgentError, match="not those of their manifest"):
        keep_trained(out, weights)
    remove(place)
    trained()
    (out / "model.safetensors").write_bytes(b"heights")
    with pytest.raises(AgentError, match="not those of their manifest"):
        keep_trained(out, weights)
    assert not place.exists()


def test_checkpoints_that_nobody_came_back_for_are_removed(tmp_path: Path) -> None:
    for name, age in (("old", KEPT_S + 60), ("new", 60.0)):
        (tmp_path / name / "step-00000002").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    CheckpointStore(tmp_path, cast(HubApi, None)).sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_attempts_that_ended_long_ago_are_removed_but_never_a_base_that_one_trained(
    tmp_path: Path, dataset: DatasetManifest
) -> None:
    adapter = train("b" * 64, dataset, "good")
    full = adapter.model_copy(update={"spec": adapter.spec.model_copy(update={"weights": Weights.FULL})})
    for name, job, ended, age in (
        ("old", adapter, True, KEPT_S + 60),
        ("new", adapter, True, 60.0),
        ("running", adapter, False, KEPT_S + 60),
        ("base", full, True, KEPT_S + 60),
    ):
        folder = ExecutorFolder(tmp_path / name)
        folder.write(Attempt(job=job, ended=ended))
        folder.out.mkdir(mode=0o500)
        os.utime(folder.job, (time.time() - age,) * 2)
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / "job.json").write_text("{")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "new", "running", "unreadable"]


async def test_a_drained_node_gives_its_jobs_back_those_that_wait_for_their_turn_too(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "slow"))
    await started(hub)
    await hub.give(train(base_digest, dataset, "good", job="j2"))
    await hub.order(drained=True)
    for job in ("j1", "j2"):
        end = await hub.job_end(job)
        assert (end.event.type, end.event.code) == (ExecutorEventType.PREEMPTED, "preempted"), end
    assert hub.versions == []


async def test_an_agent_that_was_killed_takes_its_running_executors_up_again_and_a_cancel_ends_the_one_that_it_names(
    stopped: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    node = stopped
    with node.config.open("a") as file:
        file.write("[jobs]\nat_once = 2\n")
    node.start()
    await hub.report(lambda report: any(replica.state.value == "up" for replica in report.replicas))
    for job, name in (("j1", "waits"), ("j2", "slow")):
        await hub.give(train(base_digest, dataset, name, job=job))
        await started(hub, job)
    executors = [pid for pid in node.pids() if pid not in (node.router_pid, node.engine_pid)]
    assert len(executors) == len([*node.state.doors.iterdir()]) == 2, "each asks the engine by a door of its own"
    await node.end_agent(signal.SIGKILL)
    heard = len(hub.heard)
    node.start()
    hello = await hub.wait(Hello, after=heard)
    assert sorted(hello.jobs) == [("j1", 1), ("j2", 1)]
    for job in ("j1", "j2"):
        await hub.wait(JobEvent, lambda e, job=job: e.job == job and e.event.type.value == "progress", after=heard)
    assert [pid for pid in node.pids() if pid not in (node.router_pid, node.engine_pid)] == executors
    room = (await hub.report(lambda report: report.room is not None and len(report.room.held) == 2)).room
    assert room is not None
    assert room.at_once == 2
    assert all(hold.memory_bytes > 1_000_000 for hold in room.held)
    await hub.cancel("j2", 1)
    cancelled = await hub.job_end("j2")
    assert (cancelled.event.type, cancelled.event.code) == (ExecutorEventType.PREEMPTED, "cancelled")
    assert len([pid for pid in node.pids() if pid in executors]) == 1
    (node.state.jobs / "j1-1" / "go").touch()
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert len(hub.versions) == 1
    assert not [*node.state.doors.iterdir()]
    steps = [e.event.seq for e in hub.of(JobEvent) if e.job == "j1"]
    assert sorted(set(steps)) == list(range(max(steps) + 1)), "no event is missing"


async def test_a_node_without_an_engine_trains_on_a_base_that_its_configuration_names(
    stopped: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    text = stopped.config.read_text()
    stopped.config.write_text(text[: text.index("[[engine]]")] + f'[[base]]\npath = "{stopped.base}"\n')
    stopped.start()
    hello = await hub.wait(Hello)
    assert hello.replicas == ()
    known = JobsBackend(system="node", at_once=1, bases=(base_digest,))
    if hello.backend != known:  # it has linked before it had hashed the base
        await hub.report(lambda report: report.backend == known)
    await hub.give(train(base_digest, dataset, "good"))
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert [version.manifest.base for version in hub.versions] == [base_digest]
    assert stopped.engine_pid is None


async def test_a_job_that_ended_while_no_agent_ran_is_reported_by_the_next(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "waits"))
    await started(hub)
    await node.end_agent(signal.SIGKILL)
    (node.state.jobs / "j1-1" / "go").touch()
    await until(
        lambda: b"finished" in (node.state.jobs / "j1-1" / "events.jsonl").read_bytes(), "the executor has finished"
    )
    await until(lambda: len(node.pids()) == 2, "its process is gone")
    node.start()
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end


async def test_a_job_goes_on_without_the_hub_and_its_end_is_not_lost(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "waits"))
    await started(hub)
    await hub.stop()
    (node.state.jobs / "j1-1" / "go").touch()
    await until(
        lambda: b"finished" in (node.state.jobs / "j1-1" / "events.jsonl").read_bytes(), "the executor has finished"
    )
    await hub.start()
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert len(hub.versions) == 1


async def test_events_that_a_dying_hub_did_not_take_in_are_sent_again_in_order_and_none_that_it_did(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "waits"))
    await started(hub)
    lost: list[JobEvent] = []

    def dies(event: JobEvent) -> bool:
        lost.append(event)
        return True

    hub.drops = dies
    await until(lambda: len(lost) > 5, "it is deaf already")
    noted = {e.event.seq for e in hub.of(JobEvent)}
    await hub.stop()
    hub.drops = lambda event: False
    heard = len(hub.heard)
    await hub.start()
    await hub.wait(JobEvent, after=heard)
    (node.state.jobs / "j1-1" / "go").touch()
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    seqs = [message.event.seq for message in hub.heard[heard:] if isinstance(message, JobEvent)]
    assert seqs == sorted(seqs), "in order"
    assert set(seqs) | noted == set(range(max(seqs) + 1)), "no event is missing"
    assert {event.event.seq for event in lost} <= set(seqs)
    assert not set(seqs) & set(range(max(noted) - 1)), "what was taken in, but for the last, is not sent again"


async def test_a_hub_of_before_gets_the_report_of_an_evaluation_with_the_fields_that_it_knows(
    node: Node, hub: FakeHub, v1: Adapter, suite: SuiteManifest
) -> None:
    await hub.stop()
    hub.recipes, heard = 0, len(hub.heard)
    await hub.start()
    await hub.wait(Hello, after=heard)
    await hub.give(evaluate(v1, suite))
    end = await hub.job_end("e1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    report = end.result["report"]
    assert report.keys() == {"release", "suite", "n", "exact", "valid", "items", "seconds"}
    assert report["items"][0].keys() == {"id", "answer", "exact", "valid", "kind", "ms", "why"}
    assert "canary" not in end.result, "its own agents always send one, and it reads its items"


async def test_a_prepared_release_is_resident_and_recorded_so_that_its_promote_is_only_a_flip(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    await hub.give(prepare(v2))
    end = await hub.job_end("p1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result == {"gpu-01": {"level": "proven", "code": None, "canaries": 2}}
    assert v2.release.id in {attestation.subject for attestation in hub.attestations}
    assert await node.tokens("hello") == v1.tokens("hello"), "a prepare moves nothing"

    calls = len(node.engine_calls())
    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(second)
    await hub.ack(second, "proven")
    assert [a.state.value for a in hub.of(Ack) if a.generation == 2] == ["flipped", "proven"]
    assert not [call for call in node.engine_calls()[calls:] if call.startswith("load")]


async def test_a_prepare_that_fails_gives_the_exact_code_and_changes_nothing(
    node: Node, hub: FakeHub, v1: Adapter, base_digest: str
) -> None:
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    bad = make_adapter(base_digest, 9)
    cut = bad.files["adapter_model.safetensors"][:-64]
    bad = make_adapter(base_digest, 9, files=bad.files | {"adapter_model.safetensors": cut})
    hub.add_release(bad.release, bad.manifest, bad.files)
    before = await node.router_state()
    await hub.give(prepare(bad))
    end = await hub.job_end("p1")
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, "truncated_safetensors")
    assert await node.router_state() == before
    assert await node.tokens("hello") == v1.tokens("hello")
