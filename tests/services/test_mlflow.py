"""What jobs have measured, sent by MLflow's own client to a store of MLflow's, and to a server that is away."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.jobs import JobAssignment, TrainSpec
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.tracking import OVER, Sender, outcome

pytestmark = pytest.mark.drawn(seconds=5)

SECRET = "why this tenant needs it"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient((tmp_path / "store").as_uri())


def attempt_in(jobs: Path, job: str = "j1") -> ExecutorFolder:
    """An attempt at a training that has written two steps."""
    spec = TrainSpec.model_validate(
        {
            "tenant": "acme",
            "name": "tickets",
            "base": "b" * 64,
            "datasets": ["d" * 64],
            "decision": {"why_weights": SECRET},
            "structure": {"form": "json", "answer_schema": json.dumps({"title": SECRET})},
            "validation": {},
        }
    )
    folder = ExecutorFolder(jobs / f"{job}-1")
    folder.write(Attempt(job=JobAssignment(id=job, lease=1, attempt=1, spec=spec)))
    for step in (1, 2):
        written(folder, step, loss=1 / step)
    return folder


def written(folder: ExecutorFolder, step: int, **metrics: float) -> None:
    kind = ExecutorEventType.PROGRESS
    event = ExecutorEvent(run="j", attempt=1, seq=step, ts=1000.5 + step, type=kind, step=step, metrics=metrics)
    with folder.events.open("a") as file:
        file.write(event.model_dump_json() + "\n")


def ended(folder: ExecutorFolder) -> None:
    event = ExecutorEvent(run="j", attempt=1, seq=9, ts=1, type=ExecutorEventType.FINISHED, metrics={"held-back": 0.25})
    found = outcome(event, {"adapter": "a" * 64, "version": 3, "release": "e" * 64})
    read = folder.read()
    assert read is not None
    folder.write(read.model_copy(update={"outcome": found, "ended": True}))


def test_a_run_has_the_recipe_each_loss_at_its_step_and_the_adapters_digest_once_it_is_over(
    client: Any, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    folder, sender = attempt_in(jobs), Sender(client, "loradeck", "gpu-01")
    assert sender.send(jobs)
    experiment = client.get_experiment_by_name("loradeck/acme").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.status, run.info.run_name) == ("RUNNING", "tickets j1-1")
    assert {"rank": "8", "learning_rate": "0.001", "method": "supervised"}.items() <= run.data.params.items()
    assert run.data.tags["loradeck.node"] == "gpu-01"
    written(folder, 3, loss=0.2)
    ended(folder)
    assert Sender(client, "loradeck", "gpu-01").send(jobs), "another process goes on"
    (run,) = client.search_runs([experiment])
    history = [(one.step, one.timestamp, one.value) for one in client.get_metric_history(run.info.run_id, "loss")]
    assert history == [(1, 1001500, 1.0), (2, 1002500, 0.5), (3, 1003500, 0.2)]
    assert (run.info.status, run.data.metrics["held-back"]) == ("FINISHED", 0.25)
    names = {name: run.data.tags[f"loradeck.{name}"] for name in ("adapter", "version", "release")}
    assert names == {"adapter": "a" * 64, "version": "3", "release": "e" * 64}
    assert (folder.path / OVER).exists()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert SECRET.encode() not in kept
    assert sender.send(jobs), "there is nothing left"


def test_a_run_that_was_made_just_before_an_end_of_the_sender_is_found_and_its_figures_are_there_once(
    client: Any, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    folder, sender = attempt_in(jobs), Sender(client, "loradeck", "gpu-01")
    sender.send(jobs)
    (folder.path / "mlflow.json").unlink()
    ended(folder)
    sender.send(jobs)
    experiment = client.get_experiment_by_name("loradeck/acme").experiment_id
    assert len(client.search_runs([experiment])) == 1


def test_a_server_that_is_away_keeps_nobody_waiting_and_its_token_stands_in_no_line_of_the_process(
    tmp_path: Path,
) -> None:
    jobs, token = tmp_path / "jobs", tmp_path / "token"
    jobs.mkdir()
    folder = attempt_in(jobs)
    ended(folder)
    token.write_text("t0ken")
    token.chmod(0o600)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens: a connection is refused
        argv = ["--jobs", str(jobs), "--url", f"http://127.0.0.1:{taken.getsockname()[1]}", "--experiment", "x"]
        argv += ["--node", "gpu-01", "--token", str(token)]
        command = [sys.executable, "-m", "loradeck_agent.jobs.tracking", *argv]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = next(line for line in process.stderr if "wait" in line)
            assert b"t0ken" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
            process.terminate()
            said += process.stderr.read()
    assert "figures of j1-1 wait" in said
    assert "t0ken" not in said
    assert not (folder.path / OVER).exists()
