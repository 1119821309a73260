"""The Slurm backend without a Slurm: what is read of it, what it is told, and the script that it runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.fleets.waiting import PATIENCE_S

from loradeck.schemas.jobs import EvaluateSpec, JobAssignment
from loradeck_agent.cli import main
from loradeck_agent.host.config import AgentConfig, SlurmConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.backend import Command
from loradeck_agent.jobs.slurm import SCRIPT, SlurmJob, standing_of

SHOWN = (
    "JobId=4711 JobName=loradeck-j1-1 UserId=ml(1000) Account=(null) JobState={state} Reason={reason} "
    "Dependency=(null) Requeue=1 Restarts={restarts} BatchFlag=1 ExitCode={exit} RunTime=00:00:01 "
    "Command=/x/JobState=FAILED Comment=Reason=x"
)


@pytest.mark.parametrize(
    ("state", "reason", "restarts", "exit_", "alive", "status", "words"),
    [
        ("PENDING", "Resources", 0, "0:0", True, None, "slurm 4711 pending: Resources"),
        ("PENDING", "BeginTime", 2, "0:0", True, None, "slurm 4711 pending: BeginTime, begun again 2x"),
        ("RUNNING", "None", 0, "0:0", True, None, "slurm 4711 running"),
        ("COMPLETING", "None", 0, "0:0", True, None, "slurm 4711 completing"),
        ("A_NEW_STATE", "None", 0, "0:0", True, None, "slurm 4711 a_new_state"),
        ("COMPLETED", "None", 0, "0:0", False, 0, "slurm 4711 completed"),
        ("FAILED", "NonZeroExitCode", 0, "65:0", False, 65, "slurm 4711 failed: NonZeroExitCode"),
        ("FAILED", "RaisedSignal:9(Killed)", 0, "0:9", False, -9, "slurm 4711 failed: RaisedSignal:9(Killed)"),
        ("FAILED", "NonZeroExitCode", 0, "137:0", False, -9, "slurm 4711 failed: NonZeroExitCode"),
        ("TIMEOUT", "TimeLimit", 0, "0:15", False, 75, "slurm 4711 timeout: TimeLimit"),
        ("NODE_FAIL", "None", 0, "0:0", False, 75, "slurm 4711 node_fail"),
        ("OUT_OF_MEMORY", "OutOfMemory", 0, "0:125", False, 71, "slurm 4711 out_of_memory: OutOfMemory"),
    ],
)
def test_what_slurm_shows_says_how_a_job_stands(
    state: str, reason: str, restarts: int, exit_: str, alive: bool, status: int | None, words: str
) -> None:
    text = SHOWN.format(state=state, reason=reason, restarts=restarts, exit=exit_)
    found = standing_of(text, "loradeck-j1-1")
    assert found.scheduled is not None
    assert (found.alive, found.status, found.scheduled.words) == (alive, status, words)


def test_a_job_of_another_name_has_only_taken_the_id_of_one_that_is_gone() -> None:
    text = SHOWN.format(state="RUNNING", reason="None", restarts=0, exit="0:0")
    found = standing_of(text, "loradeck-j2-1")
    assert (found.alive, found.status) == (False, None)


def options(processes: int, **changes: object) -> list[str]:
    spec = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)
    attempt = Attempt(job=JobAssignment(id="j1", lease=1, attempt=1, spec=spec))
    fields = {"scratch": "/s", "bases": ["/b"], "processes_per_node": 4, **changes}
    job = SlurmJob(ExecutorFolder(Path("/s/j1-1")), attempt, SlurmConfig.model_validate(fields), asyncio.Lock())
    return job._options(Command("train", Path("/s/j1-1/spec.json"), processes=processes, threads=3))


@pytest.mark.parametrize(
    ("processes", "nodes", "each"), [(1, 1, 1), (3, 1, 3), (4, 1, 4), (6, 2, 3), (7, 7, 1), (8, 2, 4)]
)
def test_processes_are_spread_over_as_few_nodes_as_hold_them_evenly(processes: int, nodes: int, each: int) -> None:
    found = options(processes, gres="gpu:h100")
    assert {f"--nodes={nodes}", f"--ntasks-per-node={each}", f"--gres=gpu:h100:{each}", "--cpus-per-task=3"} < {*found}


def test_a_configuration_adds_options_of_a_list_and_none_that_are_the_agents() -> None:
    found = options(1, partition="gpu", account="ml", minutes=90, options={"qos": "low", "mem": "64G"})
    assert {"--partition=gpu", "--account=ml", "--time=90", "--qos=low", "--mem=64G", "--signal=TERM@60"} < {*found}
    assert {"--requeue", "--dependency=singleton", "--job-name=loradeck-j1-1"} < {*found}
    for wrong in ({"wrap": "id"}, {"export": "ALL"}, {"qos": "a b"}, {"qos": "a\nb"}):
        with pytest.raises(ValueError, match=r"cannot be set here|should match"):
            options(1, options=wrong)


def test_a_job_that_has_ended_does_not_run_again_because_slurm_is_silent(tmp_path: Path) -> None:
    spec = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)
    attempt = Attempt(job=JobAssignment(id="j1", lease=1, attempt=1, spec=spec))
    job = SlurmJob(
        ExecutorFolder(tmp_path / "j1-1"), attempt, SlurmConfig(scratch=tmp_path, bases=(tmp_path,)), asyncio.Lock()
    )
    job._unknown("timed out")
    assert job.look().alive
    job._standing = standing_of(SHOWN.format(state="COMPLETED", reason="None", restarts=0, exit="0:0"), "loradeck-j1-1")
    job._unknown("timed out")
    assert (job.look().alive, job.look().status) == (False, 0)


async def test_a_host_without_slurms_commands_says_so_and_its_attempt_can_be_ended(tmp_path: Path) -> None:
    spec = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)
    attempt = Attempt(job=JobAssignment(id="j1", lease=1, attempt=1, spec=spec))
    config = SlurmConfig(scratch=tmp_path, bases=(tmp_path,), bin=tmp_path)
    job = SlurmJob(ExecutorFolder(tmp_path / "j1-1"), attempt, config, asyncio.Lock())
    with pytest.raises(AgentError, match="scheduler_missing: sbatch"):
        await job.submit(Command("evaluate", tmp_path / "spec.json"))
    await job.ask()
    assert not job.started


@pytest.mark.parametrize(
    ("before", "runs"), [("", True), ("owner: 4711", True), ("owner: 4712", False), ("over", False)]
)
def test_the_script_runs_its_arguments_as_they_are_and_nothing_for_an_attempt_that_is_anothers_or_over(
    tmp_path: Path, before: str, runs: bool
) -> None:
    folder, programs = tmp_path / "it's a $(folder)", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "srun").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{tmp_path}/ran"; pwd >>"{tmp_path}/ran"\n')
    (programs / "srun").chmod(0o755)
    if before:
        name, _, content = before.partition(": ")
        (folder / name).write_text(content)
    script = tmp_path / "batch.sh"
    script.write_text(SCRIPT)
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "SLURM_CPUS_PER_TASK": "2"}
    command = ["/bin/sh", str(script), str(folder), "python", "a b", "$(id)"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "ran").exists() is runs
    if runs:
        assert (tmp_path / "ran").read_text().splitlines()[3:] == [
            "--cpus-per-task=2",
            "python",
            "a b",
            "$(id)",
            str(folder),
        ]
        assert (folder / "owner").read_text().strip() == "4711"


def attempt_in(folder: ExecutorFolder, **more: object) -> Attempt:
    spec = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)
    attempt = Attempt.model_validate({"job": JobAssignment(id="j1", lease=1, attempt=1, spec=spec), **more})
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write(attempt)
    return attempt


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


async def test_slurm_is_asked_one_command_at_a_time_and_by_name_for_this_users_jobs_alone(tmp_path: Path) -> None:
    asked, turn = tmp_path / "asked", asyncio.Lock()
    program(tmp_path / "bin/squeue", f'mkdir {tmp_path}/busy || exit 1\necho "$@" >>{asked}\nrmdir {tmp_path}/busy')
    config = SlurmConfig(scratch=tmp_path, bases=(tmp_path,), bin=tmp_path / "bin")
    folders = [ExecutorFolder(tmp_path / f"j{n}-1") for n in range(5)]
    jobs = [SlurmJob(folder, attempt_in(folder), config, turn) for folder in folders]
    assert await asyncio.gather(*(job._by_name() for job in jobs)) == [""] * 5
    assert [line.split()[1:4:2] for line in asked.read_text().splitlines()] == [
        ["--me", f"--name=loradeck-j{n}-1"] for n in range(5)
    ]


@pytest.mark.parametrize(
    ("noted", "job"), [({"scheduled": "4711"}, "4711"), ({"submitting": True}, "--name=loradeck-j1-1")]
)
def test_stop_ends_where_slurm_does_not_answer_and_says_what_to_run_once_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: dict[str, object], job: str
) -> None:
    program(tmp_path / "bin/scancel", 'echo "Unable to contact slurm controller" >&2; exit 1')
    state = tmp_path / "s"
    config = tmp_path / "agent.toml"
    config.write_text(
        f'node = "n1"\nhub = "http://127.0.0.1:1"\ntoken = "t"\nstate = "{state}"\n[router]\nlisten = "127.0.0.1:1"\n'
        f'[slurm]\nscratch = "{tmp_path}"\nbases = ["{tmp_path}"]\nbin = "{tmp_path}/bin"\n'
    )
    attempt_in(ExecutorFolder(AgentConfig.load(config).folder().jobs / "j1-1"), **noted)
    monkeypatch.setattr("loradeck_agent.cli.stop.GRACE_S", 0.0)
    monkeypatch.setattr("loradeck_agent.cli.stop.EXECUTOR_GRACE_S", 0.3)
    result = CliRunner().invoke(main, ["stop", "--config", str(config)])
    assert result.exit_code == 0, result.output
    assert f"once it answers, run scancel {job}\n" in result.output
