"""Jobs from their assignment to their terminal event, with real processes that speak the executors' protocol.

All are on one node, which each test finds linked and idle.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.fleets.host import short_folder
from tests.fleets.waiting import PATIENCE_S, until
from tests.integration.agent.artifacts import Adapter, make_adapter
from tests.integration.agent.conftest import TOKEN
from tests.integration.agent.fake_engine import BUILD, tokens_of
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.jobs import evaluate, merge, prepare, started, train
from tests.integration.agent.node import Node

from loradeck.artifacts import base_manifest
from loradeck.artifacts.staging import remove
from loradeck.schemas.attestation import Attestation, AttestationKind, EvaluationReport
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.jobs import (
    CheckpointRef,
    JobAssignment,
    JudgeSpec,
    LeakSpec,
    ProveSpec,
    TrainSpec,
)
from loradeck.schemas.judge import SuiteJudge
from loradeck.schemas.judge_report import JudgeReport
from loradeck.schemas.link import JobEvent, JobLog
from loradeck.schemas.manifest import (
    BaseManifest,
    DatasetManifest,
    FileEntry,
    Form,
    Release,
    SuiteManifest,
)
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder

_numbers = itertools.count(1)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_hub() -> AsyncIterator[FakeHub]:
    made = FakeHub(TOKEN, "gpu-01")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(scope="module")
def shared_node(shared_hub: FakeHub, base: Path) -> Iterator[Node]:
    with short_folder() as folder:
        made = Node(folder, base, shared_hub.url, TOKEN)
        made.start()
        yield made
        made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def hub(shared_hub: FakeHub, shared_node: Node) -> FakeHub:
    """A hub that knows nothing, with a node linked to it whose engine is up and which keeps nothing of any job."""

    def running() -> list[Attempt]:
        attempts = [ExecutorFolder(path).read() for path in shared_node.state.jobs.iterdir()]
        return [attempt for attempt in attempts if attempt is not None and not attempt.ended]

    await shared_hub.report(lambda report: [replica.state.value for replica in report.replicas] == ["up"])
    for attempt in running():  # of a test that failed
        await shared_hub.cancel(attempt.job.id, attempt.job.lease)
    await until(lambda: not running(), "every job has ended")
    state = shared_node.state
    for kept in (state.jobs, state.inputs, state.checkpoints, state.merged):
        for path in kept.iterdir():
            remove(path) if path.is_dir() else path.unlink()
    (state.engine("e0") / "calls.log").unlink(missing_ok=True)
    shared_hub.forget()
    return shared_hub


@pytest.fixture
def node(shared_node: Node, hub: FakeHub) -> Node:
    return shared_node


@pytest.fixture
def job() -> str:
    """A name that no job had before."""
    return f"j{next(_numbers)}"


async def test_a_trained_adapter_is_registered_before_the_job_says_it_is_finished(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "good", job=job))
    end = await hub.job_end(job)
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
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    settings = {"teacher": base_digest, "licence": "MIT", "way": "top"}
    given = train(base_digest, dataset, "distils", job=job)
    spec = TrainSpec.model_validate(given.spec.model_dump() | {"method": "distil", "distillation": settings})
    await hub.give(given.model_copy(update={"spec": spec}))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    told = [e.event.message for e in hub.of(JobEvent)]
    assert "the teacher says (((1, -1.0), (2, -2.0)), ((1, -1.0), (2, -2.0)))" in told


async def test_a_training_asks_the_engine_that_serves_its_base_how_it_reads_a_row(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "reads", job=job))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert "the engine reads (4, 1)" in [e.event.message for e in hub.of(JobEvent)]


async def test_a_dataset_with_erased_rows_is_removed_from_the_node_and_not_trained_on(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "good", job=job))
    await hub.job_end(job)
    here = node.state.inputs / dataset.digest
    assert here.is_dir()
    kind = AttestationKind.ERASURE
    hub.attestations.append(Attestation(kind=kind, subject=dataset.digest, tenant="acme", body={}, by="x"))
    await hub.give(train(base_digest, dataset, "good", job=f"{job}-b"))
    end = await hub.job_end(f"{job}-b")
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, "erased_row")
    assert not here.exists()


async def test_the_same_lease_given_twice_is_done_once(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    given = train(base_digest, dataset, "waits", job=job)
    await hub.give(given)
    await started(hub, job)
    await hub.give(given)
    (node.state.jobs / f"{job}-1" / "go").touch()
    await hub.job_end(job)
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
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest, name: str, code: str, says: str
) -> None:
    await hub.give(train(base_digest, dataset, name, job=job))
    end = await hub.job_end(job)
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, code)
    assert says in end.event.message
    assert hub.versions == []
    assert not [call for call in hub.calls if call.startswith("PUT")]


async def test_a_checkpoint_goes_to_the_hub_and_another_node_goes_on_from_it(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "saves", job=job))
    told = await hub.wait(JobEvent, lambda e: e.event.type is ExecutorEventType.CHECKPOINT)
    ref = CheckpointRef(step=4, files=told.event.data["files"])
    assert [hub.blobs[file.sha256] for file in ref.files] == [b"weights after step 4"]
    shutil.rmtree(node.state.checkpoints / job)  # what another node does not have
    again = train(base_digest, dataset, "saves", lease=2, job=job)
    await hub.give(again.model_copy(update={"checkpoint": ref}))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert "resumed from weights after step 4" in [e.event.message for e in hub.of(JobEvent)]
    deadline = time.monotonic() + 60
    while (node.state.checkpoints / job).exists():
        assert time.monotonic() < deadline, "a job that is over leaves no checkpoints"
        await asyncio.sleep(0.02)


async def test_a_checkpoint_that_is_not_what_its_digests_say_starts_nothing(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest, rows: FileEntry
) -> None:
    ref = CheckpointRef(step=4, files=(rows.model_copy(update={"path": "weights.safetensors", "size": 3}),))
    await hub.give(train(base_digest, dataset, "saves", job=job).model_copy(update={"checkpoint": ref}))
    end = await hub.job_end(job)
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, "too_large")
    assert not list(node.state.checkpoints.glob(f"{job}/step-*"))


async def test_a_failed_run_brings_the_end_of_its_log(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "crashes", job=job))
    end = await hub.job_end(job)
    assert "RuntimeError: no such luck" in end.event.data["log"]


async def test_a_killed_executor_fails_and_says_by_which_signal(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "slow", job=job))
    await started(hub, job)
    (pid,) = [pid for pid in node.pids() if pid not in (node.router_pid, node.engine_pid)]
    os.kill(pid, signal.SIGKILL)
    end = await hub.job_end(job)
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, "killed")
    assert "signal 9" in end.event.message


@pytest.mark.parametrize("name", ["slow", "stubborn"])
async def test_a_cancelled_job_is_stopped_and_killed_where_it_will_not_stop(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest, name: str
) -> None:
    await hub.give(train(base_digest, dataset, name, job=job))
    await started(hub, job)
    await hub.cancel(job, 1)
    end = await hub.job_end(job)
    assert (end.event.type, end.event.code) == (ExecutorEventType.PREEMPTED, "cancelled")
    assert sorted(node.pids()) == sorted(p for p in (node.router_pid, node.engine_pid) if p)


async def test_a_cancel_under_an_older_lease_is_ignored(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "waits", lease=2, job=job))
    await started(hub, job)
    await hub.cancel(job, 1)
    (node.state.jobs / f"{job}-2" / "go").touch()
    assert (await hub.job_end(job)).event.type is ExecutorEventType.FINISHED


async def test_a_newer_lease_replaces_the_attempt_that_runs(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "slow", lease=1, job=job))
    await started(hub, job)
    await hub.give(train(base_digest, dataset, "good", lease=2, job=job))
    end = await hub.job_end(job)
    assert (end.lease, end.event.type) == (2, ExecutorEventType.FINISHED)
    assert len([pid for pid in node.pids() if pid not in (node.router_pid, node.engine_pid)]) == 0


async def test_a_job_ends_also_under_a_hub_that_never_says_what_it_took_in(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    hub.notes = False
    await hub.give(train(base_digest, dataset, "good", job=job))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert [e.event.seq for e in hub.of(JobEvent)] == list(range(end.event.seq + 1))


async def test_an_unknown_dataset_or_base_starts_no_process(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    hub.datasets.clear()
    await hub.give(train(base_digest, dataset, "good", job=job))
    assert (await hub.job_end(job)).event.code == "unknown_dataset"
    await hub.give(train("f" * 64, dataset, "good", job=f"{job}-b"))
    assert (await hub.job_end(f"{job}-b")).event.code == "unknown_base"
    assert not list(node.state.jobs.glob("*/spec.json"))


async def test_a_job_whose_base_is_not_here_ends_while_the_one_before_it_still_runs(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "waits", job=job))
    await started(hub, job)
    await hub.give(train("f" * 64, dataset, "good", job=f"{job}-b"))
    async with asyncio.timeout(PATIENCE_S):
        assert (await hub.job_end(f"{job}-b")).event.code == "unknown_base"
    (node.state.jobs / f"{job}-1" / "go").touch()
    assert (await hub.job_end(job)).event.type is ExecutorEventType.FINISHED


async def test_a_job_id_that_leaves_the_folder_is_refused(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "good", job="../../escaped"))
    await until(lambda: "no name of a folder" in node.log_text(), "it is refused")
    assert not list(node.root.parent.glob("escaped*"))


async def test_an_evaluation_asks_the_engine_that_serves_by_the_name_that_its_router_uses(
    node: Node, job: str, hub: FakeHub, v2: Adapter, suite: SuiteManifest
) -> None:
    # No other test of this file has v2 loaded.
    await hub.give(evaluate(v2, suite, job=job))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    report = EvaluationReport.model_validate(end.result["report"])
    assert (report.release, report.engine) == (v2.release.id, BUILD)
    assert report.items[0].answer == " ".join(map(str, tokens_of(v2.weights, str([7, 8]), 4)))
    calls = (node.state.engine("e0") / "calls.log").read_text().splitlines()
    name = v2.ref.engine_name
    assert [call for call in calls if call.startswith(("load", "complete"))] == [f"load {name}", f"complete {name}"]
    assert calls.index(f"load {name}") < calls.index(f"complete {name}")
    assert (node.state.inputs / suite.digest / "manifest.json").is_file()


async def test_a_trial_of_training_hands_over_what_it_measured(
    node: Node, job: str, hub: FakeHub, base_digest: str
) -> None:
    spec = ProveSpec(node="n1", base=base_digest)
    await hub.give(JobAssignment(id=job, lease=1, attempt=1, spec=spec))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    assert end.result["proof"]["base"] == base_digest


async def test_leaks_are_counted_by_the_release_and_by_the_base_alone_of_one_engine(
    node: Node, job: str, hub: FakeHub, v1: Adapter, base_digest: str, dataset: DatasetManifest
) -> None:
    spec = LeakSpec(tenant="acme", release=v1.release.id, datasets=(dataset.digest,))
    await hub.give(JobAssignment(id=job, lease=1, attempt=1, spec=spec, release=v1.ref))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    own, base = (" ".join(map(str, tokens_of(w, str([7, 8]), 4))) for w in (v1.weights, base_digest))
    assert end.result["report"]["measure"] == f"{own} / {base}"


async def test_a_judge_job_asks_candidate_other_release_and_judge_by_their_names(
    node: Node, job: str, hub: FakeHub, v1: Adapter, base_digest: str, suite: SuiteManifest
) -> None:
    alone = Release(tenant="acme", form=Form.BASE, base=base_digest, label="base")
    refs = (v1.ref, ReleaseRef(id=alone.id, release=alone, label="base"))
    judge = SuiteJudge(suite=suite.digest, rubric="It is kind.", release=alone.id, max_new_tokens=4)
    spec = JudgeSpec(tenant="acme", release=v1.release.id, against=alone.id, judge=judge)
    await hub.give(JobAssignment(id=job, lease=1, attempt=1, spec=spec, asked=refs))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    report = JudgeReport.model_validate(end.result["report"])
    assert (report.against, report.judge, report.engine) == (alone.id, judge.digest, BUILD)
    assert report.model.startswith("base (")
    assert {(item.passed, item.pair) for item in report.items} == {(None, "unclear")}, "numbers are no verdicts"
    elsewhere = spec.model_copy(update={"judge": SuiteJudge(suite=suite.digest, rubric="kind", address="house")})
    await hub.give(JobAssignment(id=f"{job}-b", lease=1, attempt=1, spec=elsewhere, asked=refs))
    end = await hub.job_end(f"{job}-b")
    assert end.event.code == "unknown_judge", end


async def test_a_generate_job_asks_each_of_its_sources_and_sends_the_rows(
    node: Node, job: str, hub: FakeHub, v1: Adapter, base_digest: str, dataset: DatasetManifest
) -> None:
    alone = Release(tenant="acme", form=Form.BASE, base=base_digest, label="base")
    refs = (v1.ref, ReleaseRef(id=alone.id, release=alone, label="base"))
    terms = {"base": base_digest, "licence": "MIT", "terms": "ann"}
    fields = {"tenant": "acme", "name": "more", "templates": [{"prompt": "?"}], "verifier": {"form": "text"}}
    sources = [terms | {"release": ref.id} for ref in refs]
    spec = GenerateSpec.model_validate(fields | {"sources": sources, "beside": [dataset.digest]})
    await hub.give(JobAssignment(id=job, lease=1, attempt=1, spec=spec, asked=refs))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    rows = [json.loads(line) for line in hub.blobs[end.result["file"]["sha256"]].splitlines()]
    said = [" ".join(map(str, tokens_of(w, str([7, 8]), 4))) for w in (v1.weights, base_digest)]
    assert [row["answer"] for row in rows] == said
    assert (end.result["report"]["rows"], end.result["file"]["path"]) == (2, "rows.jsonl")


async def test_an_evaluation_in_process_asks_no_engine(
    node: Node, job: str, hub: FakeHub, v1: Adapter, suite: SuiteManifest
) -> None:
    await hub.give(evaluate(v1, suite, offline=True, job=job))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    report = EvaluationReport.model_validate(end.result["report"])
    assert (report.engine, report.items[0].answer) == (None, "x")
    assert end.result["canary"]["release"] == v1.release.id
    calls = node.state.engine("e0") / "calls.log"
    assert not calls.exists() or "complete" not in calls.read_text()


async def test_merged_weights_are_verified_and_get_a_place_of_their_own_under_their_digest(
    node: Node, job: str, hub: FakeHub, v1: Adapter
) -> None:
    await hub.give(merge(v1, job=job))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FINISHED, end
    assert end.result is not None
    folder = node.state.merged / end.result["report"]["merged"]
    assert end.result["folder"] == str(folder)
    assert base_manifest(folder, "-", "-").digest == folder.name
    beside = BaseManifest.model_validate_json((node.state.merged / f"{folder.name}.manifest.json").read_text())
    assert [file.model_dump(mode="json") for file in beside.files] == end.result["files"]
    assert not [call for call in hub.calls if call.startswith(("PUT", "POST"))], "the weights stay here"


async def test_merged_weights_that_are_not_those_of_the_report_come_to_nothing(
    node: Node, job: str, hub: FakeHub, v1: Adapter
) -> None:
    await hub.give(merge(v1, route="lies", job=job))
    end = await hub.job_end(job)
    assert (end.event.type, end.event.code) == (ExecutorEventType.FAILED, "manifest_mismatch")
    assert not list(node.state.merged.iterdir())


async def test_a_prepare_for_a_base_that_no_engine_runs_says_what_they_run(
    node: Node, job: str, hub: FakeHub, base_digest: str
) -> None:
    foreign = make_adapter("b" * 64, 9)
    await hub.give(prepare(foreign, job))
    end = await hub.job_end(job)
    assert end.event.code == "no_replica"
    assert f"gpu-01 runs {base_digest[:6]}" in end.event.message


async def test_what_an_executor_prints_goes_up_before_its_job_has_ended(
    node: Node, job: str, hub: FakeHub, base_digest: str, dataset: DatasetManifest
) -> None:
    await hub.give(train(base_digest, dataset, "crashes", job=job))
    end = await hub.job_end(job)
    assert end.event.type is ExecutorEventType.FAILED
    printed = hub.of(JobLog)
    assert [(log.job, log.lease, log.attempt) for log in printed] == [(job, 1, 1)] * len(printed)
    lines = [line for log in printed for line in log.lines]
    assert lines == ["loading the base", "[red]step 1[/]", "no such luck"]
    assert printed[0].first == 1
