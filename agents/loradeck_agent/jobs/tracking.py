"""Has what jobs have measured sent to an MLflow server, by a process of its own that reads the folders of attempts.

No job and no engine waits for it: it is started while there is something to send, and what a server that is away did
not take is sent when it is back. `mlflow.json` in an attempt's folder says how far it is, `mlflow.over` that all is
sent. The sender is `python -m loradeck_agent.jobs.tracking`.

A run of its own for each attempt, in the experiment of its tenant: the recipe's settings as parameters, measurements by
step with their own times, the adapter's digest, release and version as tags. No text of rows, prompts or answers.
"""

import argparse
import asyncio
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.ids import Wire
from loradeck.schemas.jobs import EvaluateSpec, JobSpec, TrainSpec
from loradeck_agent.host.config import MlflowConfig
from loradeck_agent.host.job_user import JobUser
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder, Outcome

log = logging.getLogger(__name__)

LOOK_S = 10.0
"""How often the folders are looked at while nothing is sent."""

OVER = "mlflow.over"


class Sent(Wire):
    """`mlflow.json`: the run at the server, and up to which byte of the events it has what they say."""

    run: str
    events: int = 0


def tracked(spec: JobSpec) -> bool:
    """Tells whether a job's figures are for a tracking server: other jobs measure nothing of a model."""
    return isinstance(spec, TrainSpec | EvaluateSpec)


def outcome(event: ExecutorEvent, result: dict[str, Any] | None) -> Outcome:
    """Makes what is kept of an attempt's end for a tracking server: digests and figures, no rows or answers."""
    found = result or {}
    names = {name: str(found[name]) for name in ("adapter", "release", "version", "base") if found.get(name)}
    figures = dict(event.metrics)
    if isinstance(report := found.get("report"), dict) and report.get("n"):
        names |= {name: str(report[name]) for name in ("release", "suite") if name in report}
        figures |= {name: report[name] / report["n"] for name in ("exact", "valid") if name in report}
        figures["items"] = report["n"]
    return Outcome(type=event.type, code=event.code or "", names=names, figures=figures)


async def run(config: MlflowConfig, jobs: Path, node: str, user: str | None) -> None:
    """Starts the sender while there is something to send, until cancelled; it is then ended."""
    names = {"--token": config.token, "--ca": config.ca, "--user": user}
    argv = ["--jobs", str(jobs), "--url", config.url, "--experiment", config.experiment, "--node", node]
    argv += [word for name, value in names.items() if value is not None for word in (name, str(value))]
    while True:
        try:
            if await asyncio.to_thread(waiting, jobs):
                await _sent(argv)
        except OSError as error:  # no room for a process, or a disk that fails: nothing else of the agent ends by it
            log.warning("figures wait, since the sender to MLflow cannot be started: %s", error)
        await asyncio.sleep(LOOK_S)


async def _sent(argv: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loradeck_agent.jobs.tracking", *argv, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        if status := await process.wait():
            log.warning("the sender to MLflow ended with status %d; it is started again", status)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def waiting(jobs: Path) -> list[Path]:
    """The folders of attempts of which something may be to be sent. Blocks."""
    return sorted(path for path in jobs.iterdir() if (path / "job.json").exists() and not (path / OVER).exists())


PASS_S = 5.0
AWAY_S = 60.0
"""Between two passes: while jobs run, and after one in which the server did not take something."""

NICE = 10
REQUEST_S = "10"
"""Longest that one request takes, for MLflow's client: it waits two minutes for each, and repeats it, by itself."""

BATCH = 500
TEXT = 500
"""Measurements of a request, and characters of a parameter's value; MLflow takes 1,000 and 6,000."""

LEFT_OUT = frozenset({"kind", "tenant", "decision", "structure", "refusals", "words"})
"""Parts of a spec that are no settings, or hold text of the tenant's."""

_STATUS = {ExecutorEventType.FINISHED: "FINISHED", ExecutorEventType.FAILED: "FAILED"}


class Sender:
    """Brings runs up to what the folders of attempts say. `client`: an `MlflowClient`."""

    def __init__(self, client: Any, experiment: str, node: str, user: JobUser | None = None) -> None:
        self._client = client
        self._experiment = experiment
        self._node = node
        self._user = user

    def send(self, jobs: Path) -> bool:
        """Sends what is new in all folders. Returns whether the server took everything; what it did not waits."""
        took = True
        for path in waiting(jobs):
            folder = ExecutorFolder(path, self._user if (path / "work").is_dir() else None)
            attempt = folder.read()
            if attempt is None:
                continue
            try:
                if not tracked(attempt.job.spec) or self._sent(folder, attempt):
                    (path / OVER).touch(mode=0o600)
            except Exception as error:  # whatever MLflow or one attempt's files say, others are sent
                took = False
                log.warning("figures of %s wait: MLflow does not take them: %s", path.name, str(error)[:500])
        return took

    def _sent(self, folder: ExecutorFolder, attempt: Attempt) -> bool:
        """Sends what is new of one attempt. Returns whether it is over and nothing is left."""
        from mlflow.entities import Metric, RunTag

        kept = folder.path / "mlflow.json"
        sent = Sent.model_validate_json(kept.read_bytes()) if kept.exists() else Sent(run=self._run(folder, attempt))
        write_durably(kept, sent.model_dump_json().encode())
        read = list(folder.events_from(sent.events))
        events, end = [event for event, _ in read if event is not None], read[-1][1] if read else sent.events
        measured = [
            Metric(_key(name), value, round(event.ts * 1000), event.step or 0)
            for event in events
            for name, value in event.metrics.items()
        ]
        for at in range(0, len(measured), BATCH):
            self._client.log_batch(sent.run, metrics=measured[at : at + BATCH])
        if end != sent.events:
            write_durably(kept, Sent(run=sent.run, events=end).model_dump_json().encode())
        if not attempt.ended:
            return False
        if (found := attempt.outcome) is not None:
            last = max((event.step or 0 for event in events), default=0)
            at_ms = round(folder.job.stat().st_mtime * 1000)
            tags = {**found.names, "code": found.code}
            self._client.log_batch(
                sent.run,
                metrics=[Metric(_key(name), value, at_ms, last) for name, value in found.figures.items()],
                tags=[RunTag(f"loradeck.{name}", value) for name, value in tags.items() if value],
            )
        self._client.set_terminated(sent.run, _STATUS.get(found.type, "KILLED") if found is not None else "KILLED")
        return True

    def _run(self, folder: ExecutorFolder, attempt: Attempt) -> str:
        """Finds or makes the run of an attempt: one that was made just before an end of this process is found."""
        from mlflow.entities import Param

        job, name = attempt.job, f"{self._experiment}/{attempt.job.spec.tenant}"
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(name)
        tags = {"attempt": folder.path.name, "job": job.id, "kind": job.spec.kind, "node": self._node}
        found = self._client.search_runs([experiment], f"tags.`loradeck.attempt` = '{folder.path.name}'")
        run = next(iter(found), None) or self._client.create_run(
            experiment,
            tags={f"loradeck.{key}": value for key, value in tags.items()},
            run_name=f"{getattr(job.spec, 'name', job.spec.kind)} {folder.path.name}",
        )
        params = [Param(key, value) for key, value in settings(job.spec)][:100]
        self._client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)


def settings(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """The settings of a spec by name, those of a part as part.setting. No text of a tenant's is among them."""
    for name, value in spec.model_dump(mode="json", exclude_none=True).items():
        yield from _flat(name, value)


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    if name.rpartition(".")[2] in LEFT_OUT:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{_key(str(key))}", inner)
    else:
        yield name, (",".join(map(str, value)) if isinstance(value, list) else str(value))[:TEXT]


def _key(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)[:250]


def main() -> None:
    """Sends until nothing is left of any attempt, or the agent is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("jobs", "url", "experiment", "node"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("token", "ca", "user"):
        parser.add_argument(f"--{name}")
    args = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
    os.nice(NICE)
    os.environ |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": REQUEST_S, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    token = Path(args.token) if args.token else None
    if (secret := MlflowConfig(url=args.url, token=token).read_token()) is not None:
        os.environ["MLFLOW_TRACKING_TOKEN"] = secret
    if args.ca:
        os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"] = args.ca
    from mlflow.tracking import MlflowClient  # it reads the environment, and takes its time

    sender = Sender(MlflowClient(args.url), args.experiment, args.node, JobUser.of(args.user))
    agent, jobs = os.getppid(), Path(args.jobs)
    while waiting(jobs) and os.getppid() == agent:
        time.sleep(PASS_S if sender.send(jobs) else AWAY_S)


if __name__ == "__main__":
    main()
