"""The backends of jobs by one suite: child processes of this machine, and Debian's Slurm with two nodes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.backends.suite import *  # noqa: F403 - the tests, and the fixture that all of them use
from tests.contract.backends.suite import Place, ended, events, stepping_now
from tests.fakes.slurm_cluster import SLURM, Cluster, cluster
from tests.fleets.linked.hub import PROVENANCE, running
from tests.fleets.linked.hub import data_folder as hub_folder
from tests.fleets.linked.hub import until as until_soon
from tests.fleets.waiting import until
from tests.integration.agent.artifacts import make_base
from tests.integration.agent.jobs import ROWS, train
from tests.integration.agent.node import Node
from tests.integration.executors.running import DATASET, Bench, write_rows

from loradeck.artifacts import base_manifest
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.jobs import Job, JobAssignment, JobState
from loradeck.schemas.manifest import DatasetManifest
from loradeck_agent.host.config import SlurmConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.jobs import backend as backends
from loradeck_agent.jobs import slurm as module
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.backend import Workload
from loradeck_agent.jobs.executor import Executor
from loradeck_agent.jobs.local_processes import LocalProcesses
from loradeck_agent.jobs.slurm import SlurmJob

pytestmark = pytest.mark.drawn(seconds=65)


class Local(Place):
    def workload(self, folder: ExecutorFolder, attempt: Attempt) -> Workload:
        return LocalProcesses(folder, attempt)

    async def take_away(self, run: Executor) -> Executor:
        """A drain: it is the hub that gives another attempt."""
        await run.workload.end()
        return await self.begin("waits", attempt=2)

    async def unreachable(self, run: Executor) -> None:
        """The kernel always says."""

    def started(self, run: Executor) -> int:
        return sum(event.type is ExecutorEventType.STARTED for event in events(run))


class Slurm(Place):
    def __init__(self, root: Path, cluster: Cluster) -> None:
        super().__init__(root)
        self.cluster = cluster
        self.config = SlurmConfig(scratch=root, bases=(root,), partition="low")

    def workload(self, folder: ExecutorFolder, attempt: Attempt) -> Workload:
        return SlurmJob(folder, attempt, self.config, asyncio.Lock())

    async def take_away(self, run: Executor) -> Executor:
        """Preempted by a job of another partition that wants both nodes, and requeued: the same job goes on."""
        options = ("--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
        await asyncio.to_thread(self.cluster.command, "sbatch", *options)
        return run

    async def unreachable(self, run: Executor) -> None:
        self.cluster.end_controller()
        said = run.workload.look
        await until(lambda: (s := said().scheduled) is not None and s.state == "unknown", "it says nothing of it")
        assert "Unable to contact slurm controller" in said().scheduled.reason  # type: ignore[union-attr]
        self.cluster.start_controller()

    def started(self, run: Executor) -> int:
        return len(self.cluster.job(f"loradeck-{run.folder.path.name}"))


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    if not (SLURM / ".installed").exists():
        pytest.skip("Slurm is not unpacked here: make .slurm/.installed")
    with (
        tempfile.TemporaryDirectory(prefix="ld") as root,
        cluster(Path(root)) as made,
        pytest.MonkeyPatch.context() as changed,
    ):
        for name, value in made.environment.items():
            changed.setenv(name, value)
        changed.setattr(module, "POLL_S", 0.1)
        changed.setattr(module, "RETRY_S", 0.1)
        yield made


@pytest.fixture(params=["local", "slurm"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Local(tmp_path) if request.param == "local" else Slurm(tmp_path, request.getfixturevalue("slurm"))


@pytest.fixture
def here(slurm: Cluster, tmp_path: Path) -> Slurm:
    return Slurm(tmp_path, slurm)


async def test_a_job_that_waits_says_why_in_slurms_words_and_is_taken_out_of_the_queue(here: Slurm) -> None:
    first, second = Slurm(here.root / "a", here.cluster), Slurm(here.root / "b", here.cluster)
    for one in (first, second):
        one.root.mkdir()
        one.config = one.config.model_copy(update={"options": {"nodelist": "n1"}})
    running = await first.begin("waits")
    await stepping_now(running)
    waiting = await second.begin("waits")

    def said() -> str:
        found = waiting.workload.look().scheduled
        return found.words if found is not None else ""

    await until(lambda: "Resources" in said(), "it says why it waits")
    assert said() == f"slurm {waiting.attempt.scheduled} pending: Resources"
    await waiting.workload.end()
    assert (await ended(waiting)).status == 75
    assert events(waiting) == []
    await running.workload.end()


async def test_a_submission_waits_for_a_lost_controller_and_an_agent_that_starts_anew_meanwhile_submits_no_second(
    here: Slurm,
) -> None:
    here.cluster.end_controller()
    waits = asyncio.create_task(here.begin("good"))
    folder = ExecutorFolder(here.root / f"{here.root.name}-1")
    await until(lambda: (a := folder.read()) is not None and a.submitting, "it is to be submitted")
    await asyncio.sleep(0.5)  # Slurm's own client asks meanwhile; the attempt stays the same whenever it is left
    waits.cancel("the agent ends")
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert not (folder.path / "over").exists()
    here.cluster.start_controller()
    attempt = folder.read()
    assert attempt is not None
    assert attempt.scheduled is None
    for _ in range(2):  # the second finds what the first has submitted, although its id was not noted
        run = Executor(SlurmJob(folder, attempt, here.config, asyncio.Lock()))
        await run.workload.submit(module.Command("evaluate", folder.spec))
        await ended(run)
    assert here.started(run) == 1
    assert sum(event.type is ExecutorEventType.STARTED for event in events(run)) == 1


async def test_a_second_job_for_one_attempt_does_nothing(here: Slurm) -> None:
    run = await here.begin("waits")
    await stepping_now(run)
    twin = Executor(SlurmJob(run.folder, Attempt(job=run.attempt.job), here.config, asyncio.Lock()))
    await twin.workload.submit(module.Command("evaluate", run.folder.spec))
    assert twin.attempt.scheduled != run.attempt.scheduled
    (run.folder.path / "go").touch()
    await ended(run)
    run.workload.over()
    assert (await ended(twin)).scheduled == run.workload.look().scheduled, "it follows the one that worked"
    ids = ",".join(here.cluster.job(f"loradeck-{run.folder.path.name}"))
    await until(lambda: not here.cluster.command("squeue", "--noheader", f"--jobs={ids}"), "both are over")
    assert sum(event.type is ExecutorEventType.STARTED for event in events(run)) == 1


async def test_a_job_sees_nothing_of_the_agents_environment_and_its_script_is_the_agents_alone(
    here: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORADECK_TOKEN", "a secret")
    run = await here.begin("good")
    await ended(run)
    seen = json.loads((run.folder.path / "environment.json").read_text())
    assert "LORADECK_TOKEN" not in seen
    assert seen["SLURM_JOB_ID"] == run.attempt.scheduled
    assert (run.folder.path / "batch.sh").stat().st_mode & 0o777 == 0o600


async def test_jobs_go_from_the_hubs_queue_through_slurm_to_their_ends_also_by_an_agent_that_was_killed(
    slurm: Cluster, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    make_base(base)
    async with hub_folder() as data, running(data) as deck, hub_folder() as short:
        await deck.tenant()
        digest = await deck.base(base_manifest(base, "a/base", "1"))
        rows = (await deck.blob(ROWS)).model_copy(update={"path": "rows.jsonl"})
        dataset = DatasetManifest(tenant="acme", name="tickets", rows=1, files=(rows,), provenance=PROVENANCE)
        await deck.ok("POST", "datasets", dataset.model_dump(mode="json"))
        node = Node(short, base, f"http://127.0.0.1:{deck.port}", await deck.token("agent", "gpu-01"))
        text = node.config.read_text().partition("[[engine]]")[0]
        node.config.write_text(f'{text}[slurm]\nscratch = "{tmp_path}"\nbases = ["{base}"]\nat_once = 2\n')
        fleet = deck.hub.fleet.nodes

        async def submitted(name: str, **more: int) -> str:
            spec = train(digest, dataset, name).spec.model_dump(mode="json") | more
            return str((await deck.ok("POST", "jobs", {"spec": spec}))["id"])

        def job(job_id: str) -> Job:
            return deck.hub.jobs.get(job_id)  # type: ignore[return-value]

        async def over(job_id: str) -> Job:
            await until_soon(lambda: job(job_id).ended_ms, "it is over", 60)
            return job(job_id)

        try:
            node.start(**slurm.environment)
            waits, saves = await submitted("waits"), await submitted("saves")
            for one in (waits, saves):
                await until_soon(lambda o=one: (s := job(o).scheduled) is not None and s.state == "running", "runs", 60)
            (row,) = await deck.ok("GET", "nodes")
            assert row["backend"] == {"system": "slurm", "at_once": 2, "bases": [digest]}
            saved = await until_soon(lambda: job(saves).checkpoint, "a checkpoint")
            assert all(deck.hub.blobs.has(file.sha256) for file in saved.files)
            boot = fleet["gpu-01"].boot
            await node.end_agent(signal.SIGKILL)
            node.start(**slurm.environment)
            await until_soon(lambda: fleet["gpu-01"].linked and fleet["gpu-01"].boot != boot, "it is back", 60)
            (tmp_path / f"gpu-01/jobs/{waits}-1/go").touch()
            await deck.ok("POST", f"jobs/{saves}/cancel", {})
            cancelled, done = await over(saves), await over(waits)
            assert [(one.state, one.attempt) for one in (cancelled, done)] == [
                (JobState.CANCELLED, 1),
                (JobState.DONE, 1),
            ]
            made = await deck.ok("GET", "adapters/acme/waits/versions")
            assert [version["digest"] for version in made] == [(done.result or {})["adapter"]]
            for one in (cancelled, done):
                assert one.scheduled is not None
                assert slurm.job(f"loradeck-{one.id}-1") == [one.scheduled.id], "and no second"
            refused = await over(await submitted("waits", processes=3, accumulation=3, batch=9))
            assert refused.code == "scheduler_refused", "a node each, and there are two"
        finally:
            node.close()


async def test_the_processes_of_a_recipe_meet_on_two_nodes(
    here: Slurm, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tiny_base, here.root)
    rows = write_rows(here.root / "rows.jsonl", [{"prompt": str(n), "answer": "n"} for n in range(8)])
    spec = bench.recipe(processes=2, steps=1, batch=2)
    made = bench.write(spec, {DATASET: str(rows)})
    run = Executor(
        here.workload(ExecutorFolder(made), Attempt(job=JobAssignment(id="j1", lease=1, attempt=2, spec=spec)))
    )
    argv = (sys.executable, "-m", "loradeck_agent.executors", "train", "--spec", str(made / "spec.json"))
    monkeypatch.setattr(backends, "executor_argv", lambda kind, spec: argv)
    await run.workload.submit(module.Command("train", made / "spec.json", processes=2))
    assert (await ended(run)).status == 0, run.folder.last_lines()
    assert (made / "out" / "adapter_model.safetensors").exists()
    assert (made / "events.rank1.jsonl").exists()
    assert "NumNodes=2" in here.cluster.command("scontrol", "show", "job", str(run.attempt.scheduled))


async def test_what_slurm_refuses_fails_with_its_words(here: Slurm) -> None:
    here.config = here.config.model_copy(update={"partition": "no-such"})
    with pytest.raises(AgentError, match="invalid partition specified: no-such"):
        await here.begin("good")
