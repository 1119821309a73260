"""Has what jobs have measured sent to an MLflow server, by a process of its own that reads the folders of attempts.

No job and no engine waits for it: it is started while there is something to send, and what a server that is away did
not take is sent when it is back. `mlflow.json` in an attempt's folder says how far it is, `mlflow.over` that all is
sent.
"""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

from loradeck.schemas.executor import ExecutorEvent
from loradeck.schemas.ids import Wire
from loradeck.schemas.jobs import EvaluateSpec, JobSpec, TrainSpec
from loradeck_agent.host.mlflow_config import MlflowConfig
from loradeck_agent.jobs.attempt import Outcome

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
        sys.executable, "-m", "loradeck_agent.jobs.mlflow_sender", *argv, stdin=asyncio.subprocess.DEVNULL
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
