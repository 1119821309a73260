"""Jobs from their assignment to their terminal event, with real processes that speak the executors' protocol."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import cast

import pytest
from tests.fakes.patience import PATIENCE_S
from tests.integration.agent.artifacts import CANARIES, Adapter, entry, make_adapter
from tests.integration.agent.fake_engine import BUILD, tokens_of
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node, until

from loradeck.artifacts import base_manifest
from loradeck.artifacts.staging import remove
from loradeck.schemas.attestation import Attestation, AttestationKind, EvaluationReport
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.jobs import (
    CheckpointRef,
    EvaluateSpec,
    JobAssignment,
    JudgeSpec,
    LeakSpec,
    MergeSpec,
    PrepareSpec,
    ProveSpec,
    TrainSpec,
)
from loradeck.schemas.judge import SuiteJudge
from loradeck.schemas.judge_report import JudgeReport
from loradeck.schemas.link import Ack, Hello, JobEvent, JobLog, JobsBackend
from loradeck.schemas.manifest import (
    BaseManifest,
    DatasetManifest,
    DecisionRecord,
    FileEntry,
    Form,
    Origin,
    Provenance,
    Release,
    SuiteManifest,
)
from loradeck.schemas.table import ReleaseRef
from loradeck.schemas.training import Weights
from loradeck_agent.host.errors import AgentError
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder, sweep
from loradeck_agent.jobs.results import keep_trained
from loradeck_agent.store.checkpoints import KEPT_S, CheckpointStore
from loradeck_agent.uplink.hub_api import HubApi

ROWS = b'{"id": "i1", "prompt": "hello", "answer": "x"}\n'
OWN = Provenance(origin=Origin.HUMAN, consent="own", licence_class="customer-owned", purpose=("train",))
KEYS = (CALLER_HASH,)


@pytest.fixture
def rows(hub: FakeHub) -> FileEntry:
    made = FileEntry(path="rows.jsonl", size=len(ROWS), sha256=hashlib.sha256(ROWS).hexdigest())
    hub.blobs[made.sha256] = ROWS
    return made


@pytest.fixture
def dataset(hub: FakeHub, rows: FileEntry) -> DatasetManifest:
    made = DatasetManifest(tenant="acme", name="tickets", rows=1, files=(rows,), provenance=OWN)
    hub.datasets.append(made)
    return made


def train(base: str, dataset: DatasetManifest, name: str, *, job: str = "j1", lease: int = 1) -> JobAssignment:
    spec = TrainSpec(
        tenant="acme",
        name=name,
        base=base,
        datasets=(dataset.digest,),
        decision=DecisionRecord(why_weights="the test needs weights"),
    )
    return JobAssignment(id=job, lease=lease, attempt=lease, spec=spec)


async def started(hub: FakeHub, job: str = "j1") -> JobEvent:
    return await hub.wait(JobEvent, lambda e: e.job == job and e.event.type is ExecutorEventType.PROGRESS)


async def test_a_trained_adapter_is_registered_before_the_job_says_it_is_finished(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "good"))
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    version = hub.versions[0]
    assert end.result == {"adapter": version.digest, "version": 1, "release": version.release}
    assert all(file.sha256 in hub.blobs for file in version.manifest.files)
    events = [e.event for e in hub.of(JobEvent)]
    assert [e.seq for e in events] == list(range(len(events)))
    assert [e.step for e in events if e.type is ExecutorEventType.PROGRESS] == [1, 2, 3]
    posts = [call for call in hub.calls if call.startswith(("PUT", "POST"))]
    assert [call.split()[0] for call in posts] == ["PUT", "PUT", "POST"]


async def test_a_distillation_asks_the_engine_that_serves_its_teacher_which_tokens_are_likely(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    settings = {"teacher": base_digest, "licence": "MIT", "way": "top"}
    job = train(base_digest, dataset, "distils")
    spec = TrainSpec.model_validate(job.spec.model_dump() | {"method": "distil", "distillation": settings})
    await hub.give(job.model_copy(update={"spec": spec}))
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    told = [e.event.message for e in hub.of(JobEvent)]
    assert "the teacher says (((1, -1.0), (2, -2.0)), ((1, -1.0), (2, -2.0)))" in told


async def test_a_training_asks_the_engine_that_serves_its_base_how_it_reads_a_row(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "reads"))
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert "the engine reads (4, 1)" in [e.event.message for e in hub.of(JobEvent)]


async def test_a_dataset_with_erased_rows_is_removed_from_the_node_and_not_trained_on(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "good"))
    await hub.job_end("j1")
    here = node.state.inputs / dataset.digest
    assert here.is_dir()
    kind = AttestationKind.ERASURE
    hub.attestations.append(Attestation(kind=kind, subject=dataset.digest, tenant="acme", body={}, by="x"))
    await hub.give(train(base_digest, dataset, "good", job="j2"))
    end = await hub.job_end("j2")
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, "erased_row")
    assert not here.exists()


async def test_the_same_lease_given_twice_is_done_once(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    job = train(base_digest, dataset, "waits")
    await hub.give(job)
    await started(hub)
    await hub.give(job)
    (node.state.jobs / "j1-1" / "go").touch()
    await hub.job_end("j1")
    assert len(hub.versions) == 1
    assert len(list(node.state.jobs.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("diverges", "diverged", "not finite at step 2"),
        ("crashes", "executor_failed", "RuntimeError: no such luck"),
        ("silent", "no_terminal_event", "without a terminal event"),
        ("lies", "manifest_mismatch", "adapter_model.safetensors"),
    ],
)
async def test_a_run_that_came_to_nothing_fails_with_its_reason_and_registers_nothing(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest, name: str, code: str, says: str
) -> None:
    await hub.give(train(base_digest, dataset, name))
    end = await hub.job_end("j1")
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, code)
    assert says in end.event.message
    assert hub.versions == []
    assert not [call for call in hub.calls if call.startswith("PUT")]


async def test_a_checkpoint_goes_to_the_hub_and_another_node_goes_on_from_it(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "saves"))
    told = await hub.wait(JobEvent, lambda e: e.event.type is ExecutorEventType.CHECKPOINT)
    ref = CheckpointRef(step=4, files=told.event.data["files"])
    assert [hub.blobs[file.sha256] for file in ref.files] == [b"weights after step 4"]
    shutil.rmtree(node.state.checkpoints / "j1")  # what another node does not have
    again = train(base_digest, dataset, "saves", lease=2)
    await hub.give(again.model_copy(update={"checkpoint": ref}))
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert "resumed from weights after step 4" in [e.event.message for e in hub.of(JobEvent)]
    deadline = time.monotonic() + 60
    while (node.state.checkpoints / "j1").exists():
        assert time.monotonic() < deadline, "a job that is over leaves no checkpoints"
        await asyncio.sleep(0.02)


async def test_a_checkpoint_that_is_not_what_its_digests_say_starts_nothing(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest, rows: FileEntry
) -> None:
    ref = CheckpointRef(step=4, files=(rows.model_copy(update={"path": "weights.safetensors", "size": 3}),))
    await hub.give(train(base_digest, dataset, "saves").model_copy(update={"checkpoint": ref}))
    end = await hub.job_end("j1")
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, "too_large")
    assert not list(node.state.checkpoints.glob("j1/step-*"))


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


async def test_a_failed_run_brings_the_end_of_its_log(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "crashes"))
    end = await hub.job_end("j1")
    assert "RuntimeError: no such luck" in end.event.data["log"]


async def test_a_killed_executor_fails_and_says_by_which_signal(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "slow"))
    await started(hub)
    (pid,) = [pid for pid in node.pids() if pid not in (node.router_pid, node.engine_pid)]
    os.kill(pid, signal.SIGKILL)
    end = await hub.job_end("j1")
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, "killed")
    assert "signal 9" in end.event.message


@pytest.mark.parametrize("name", ["slow", "stubborn"])
async def test_a_cancelled_job_is_stopped_and_killed_where_it_will_not_stop(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest, name: str
) -> None:
    await hub.give(train(base_digest, dataset, name))
    await started(hub)
    await hub.cancel("j1", 1)
    end = await hub.job_end("j1")
    assert (end.event.type, end.event.code) == (ExecutorEventType.PREEMPTED, "cancelled")
    assert sorted(node.pids()) == sorted(p for p in (node.router_pid, node.engine_pid) if p)


async def test_a_cancel_under_an_older_lease_is_ignored(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "waits", lease=2))
    await started(hub)
    await hub.cancel("j1", 1)
    (node.state.jobs / "j1-2" / "go").touch()
    assert (await hub.job_end("j1")).event.type is ExecutorEventType.FINISHED


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


async def test_a_newer_lease_replaces_the_attempt_that_runs(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "slow", lease=1))
    await started(hub)
    await hub.give(train(base_digest, dataset, "good", lease=2))
    end = await hub.job_end("j1")
    assert (end.lease, end.event.type) == (2, ExecutorEventType.FINISHED)
    assert len([pid for pid in node.pids() if pid not in (node.router_pid, node.engine_pid)]) == 0


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


async def test_a_job_ends_also_under_a_hub_that_never_says_what_it_took_in(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    hub.notes = False
    await hub.give(train(base_digest, dataset, "good"))
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert [e.event.seq for e in hub.of(JobEvent)] == list(range(end.event.seq + 1))


async def test_an_unknown_dataset_or_base_starts_no_process(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    hub.datasets.clear()
    await hub.give(train(base_digest, dataset, "good"))
    assert (await hub.job_end("j1")).event.code == "unknown_dataset"
    await hub.give(train("f" * 64, dataset, "good", job="j2"))
    assert (await hub.job_end("j2")).event.code == "unknown_base"
    assert not list(node.state.jobs.glob("*/spec.json"))


async def test_a_job_whose_base_is_not_here_ends_while_the_one_before_it_still_runs(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "waits"))
    await started(hub)
    await hub.give(train("f" * 64, dataset, "good", job="j2"))
    async with asyncio.timeout(PATIENCE_S):
        assert (await hub.job_end("j2")).event.code == "unknown_base"
    (node.state.jobs / "j1-1" / "go").touch()
    assert (await hub.job_end("j1")).event.type is ExecutorEventType.FINISHED


async def test_a_job_id_that_leaves_the_folder_is_refused(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "good", job="../../escaped"))
    await until(lambda: "no name of a folder" in node.log_text(), "it is refused")
    assert not list(node.root.parent.glob("escaped*"))


@pytest.fixture
def suite(hub: FakeHub, rows: FileEntry) -> SuiteManifest:
    made = SuiteManifest(tenant="acme", name="held-out", items=1, files=(rows,), provenance=OWN)
    hub.suites.append(made)
    return made


def evaluate(adapter: Adapter, suite: SuiteManifest, *, offline: bool = False) -> JobAssignment:
    spec = EvaluateSpec(tenant="acme", release=adapter.release.id, suite=suite.digest, offline=offline)
    return JobAssignment(id="e1", lease=1, attempt=1, spec=spec, release=adapter.ref, canaries=CANARIES)


async def test_an_evaluation_asks_the_engine_that_serves_by_the_name_that_its_router_uses(
    node: Node, hub: FakeHub, v1: Adapter, suite: SuiteManifest
) -> None:
    await hub.give(evaluate(v1, suite))
    end = await hub.job_end("e1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    report = EvaluationReport.model_validate(end.result["report"])
    assert (report.release, report.engine) == (v1.release.id, BUILD)
    assert report.items[0].answer == " ".join(map(str, tokens_of(v1.weights, str([7, 8]), 4)))
    calls = (node.state.engine("e0") / "calls.log").read_text().splitlines()
    name = v1.ref.engine_name
    assert [call for call in calls if call.startswith(("load", "complete"))] == [f"load {name}", f"complete {name}"]
    assert calls.index(f"load {name}") < calls.index(f"complete {name}")
    assert (node.state.inputs / suite.digest / "manifest.json").is_file()


async def test_a_trial_of_training_hands_over_what_it_measured(node: Node, hub: FakeHub, base_digest: str) -> None:
    spec = ProveSpec(node="n1", base=base_digest)
    await hub.give(JobAssignment(id="p1", lease=1, attempt=1, spec=spec))
    end = await hub.job_end("p1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    assert end.result["proof"]["base"] == base_digest


async def test_leaks_are_counted_by_the_release_and_by_the_base_alone_of_one_engine(
    node: Node, hub: FakeHub, v1: Adapter, base_digest: str, dataset: DatasetManifest
) -> None:
    spec = LeakSpec(tenant="acme", release=v1.release.id, datasets=(dataset.digest,))
    await hub.give(JobAssignment(id="l1", lease=1, attempt=1, spec=spec, release=v1.ref))
    end = await hub.job_end("l1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    own, base = (" ".join(map(str, tokens_of(w, str([7, 8]), 4))) for w in (v1.weights, base_digest))
    assert end.result["report"]["measure"] == f"{own} / {base}"


async def test_a_judge_job_asks_candidate_other_release_and_judge_by_their_names(
    node: Node, hub: FakeHub, v1: Adapter, base_digest: str, suite: SuiteManifest
) -> None:
    alone = Release(tenant="acme", form=Form.BASE, base=base_digest, label="base")
    refs = (v1.ref, ReleaseRef(id=alone.id, release=alone, label="base"))
    judge = SuiteJudge(suite=suite.digest, rubric="It is kind.", release=alone.id, max_new_tokens=4)
    spec = JudgeSpec(tenant="acme", release=v1.release.id, against=alone.id, judge=judge)
    await hub.give(JobAssignment(id="j1", lease=1, attempt=1, spec=spec, asked=refs))
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    report = JudgeReport.model_validate(end.result["report"])
    assert (report.against, report.judge, report.engine) == (alone.id, judge.digest, BUILD)
    assert report.model.startswith("base (")
    assert {(item.passed, item.pair) for item in report.items} == {(None, "unclear")}, "numbers are no verdicts"
    elsewhere = spec.model_copy(update={"judge": SuiteJudge(suite=suite.digest, rubric="kind", address="house")})
    await hub.give(JobAssignment(id="j2", lease=1, attempt=1, spec=elsewhere, asked=refs))
    end = await hub.job_end("j2")
    assert end.event.code == "unknown_judge", end


async def test_a_generate_job_asks_each_of_its_sources_and_sends_the_rows(
    node: Node, hub: FakeHub, v1: Adapter, base_digest: str, dataset: DatasetManifest
) -> None:
    alone = Release(tenant="acme", form=Form.BASE, base=base_digest, label="base")
    refs = (v1.ref, ReleaseRef(id=alone.id, release=alone, label="base"))
    terms = {"base": base_digest, "licence": "MIT", "terms": "ann"}
    fields = {"tenant": "acme", "name": "more", "templates": [{"prompt": "?"}], "verifier": {"form": "text"}}
    sources = [terms | {"release": ref.id} for ref in refs]
    spec = GenerateSpec.model_validate(fields | {"sources": sources, "beside": [dataset.digest]})
    await hub.give(JobAssignment(id="g1", lease=1, attempt=1, spec=spec, asked=refs))
    end = await hub.job_end("g1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    rows = [json.loads(line) for line in hub.blobs[end.result["file"]["sha256"]].splitlines()]
    said = [" ".join(map(str, tokens_of(w, str([7, 8]), 4))) for w in (v1.weights, base_digest)]
    assert [row["answer"] for row in rows] == said
    assert (end.result["report"]["rows"], end.result["file"]["path"]) == (2, "rows.jsonl")


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


async def test_an_evaluation_in_process_asks_no_engine(
    node: Node, hub: FakeHub, v1: Adapter, suite: SuiteManifest
) -> None:
    await hub.give(evaluate(v1, suite, offline=True))
    end = await hub.job_end("e1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    report = EvaluationReport.model_validate(end.result["report"])
    assert (report.engine, report.items[0].answer) == (None, "x")
    assert end.result["canary"]["release"] == v1.release.id
    calls = node.state.engine("e0") / "calls.log"
    assert not calls.exists() or "complete" not in calls.read_text()


def merge(adapter: Adapter, route: str = "production") -> JobAssignment:
    spec = MergeSpec(tenant="acme", release=adapter.release.id, route=route)
    return JobAssignment(id="m1", lease=1, attempt=1, spec=spec, release=adapter.ref, canaries=CANARIES)


async def test_merged_weights_are_verified_and_get_a_place_of_their_own_under_their_digest(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    await hub.give(merge(v1))
    end = await hub.job_end("m1")
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    folder = node.state.merged / end.result["report"]["merged"]
    assert end.result["folder"] == str(folder)
    assert base_manifest(folder, "-", "-").digest == folder.name
    beside = BaseManifest.model_validate_json((node.state.merged / f"{folder.name}.manifest.json").read_text())
    assert [file.model_dump(mode="json") for file in beside.files] == end.result["files"]
    assert not [call for call in hub.calls if call.startswith(("PUT", "POST"))], "the weights stay here"


async def test_merged_weights_that_are_not_those_of_the_report_come_to_nothing(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    await hub.give(merge(v1, route="lies"))
    end = await hub.job_end("m1")
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, "manifest_mismatch")
    assert not list(node.state.merged.iterdir())


# ---- prepare -----------------------------------------------------------------------------------------------


def prepare(adapter: Adapter, job: str = "p1", lease: int = 1) -> JobAssignment:
    spec = PrepareSpec(tenant="acme", route="production", release=adapter.release.id, expected_generation=1)
    return JobAssignment(id=job, lease=lease, attempt=lease, spec=spec, release=adapter.ref, canaries=CANARIES)


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


async def test_a_prepare_for_a_base_that_no_engine_runs_says_what_they_run(
    node: Node, hub: FakeHub, base_digest: str
) -> None:
    foreign = make_adapter("b" * 64, 9)
    await hub.give(prepare(foreign))
    end = await hub.job_end("p1")
    assert end.event.code == "no_replica"
    assert f"gpu-01 runs {base_digest[:6]}" in end.event.message


async def test_what_an_executor_prints_goes_up_before_its_job_has_ended(
    node: Node, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "crashes"))
    end = await hub.job_end("j1")
    assert end.event.type is ExecutorEventType.FAILED
    printed = hub.of(JobLog)
    assert [(log.job, log.lease, log.attempt) for log in printed] == [("j1", 1, 1)] * len(printed)
    lines = [line for log in printed for line in log.lines]
    assert lines == ["loading the base", "[red]step 1[/]", "no such luck"]
    assert printed[0].first == 1
