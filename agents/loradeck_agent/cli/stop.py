"""`loradeck-agent stop`."""

import asyncio

import click

from loradeck_agent.cli.shared import config_option
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.state_folder import holder_of
from loradeck_agent.host.supervisor import end_process
from loradeck_agent.jobs.attempt import ExecutorFolder
from loradeck_agent.jobs.backend import GRACE_S
from loradeck_agent.jobs.launch import backend_of
from loradeck_agent.jobs.local_processes import LocalProcesses

AGENT_GRACE_S = 15.0
ROUTER_GRACE_S = 20.0
ENGINE_GRACE_S = 20.0
EXECUTOR_GRACE_S = 60.0
"""For a job at a scheduler: beside its own grace, how long the scheduler may not answer."""


@click.command()
@config_option
@click.option("--agent-only", is_flag=True, help="Ends the agent and leaves router, engines and jobs running.")
def stop(config: AgentConfig, agent_only: bool) -> None:
    """Ends the agent, its router, its engines and its jobs, and waits for each.

    Each is asked with SIGTERM and killed when it does not end in its time (a router lets answers finish).
    """
    folder = config.folder()
    ended = _end(holder_of(folder.lock), "agent", AGENT_GRACE_S)
    if not agent_only:
        # The agent first: it would start again what ends behind its back.
        for path in sorted(folder.jobs.iterdir()) if folder.jobs.is_dir() else ():
            ended += _end(_executor_pid(ExecutorFolder(path)), f"job {path.name}", EXECUTOR_GRACE_S)
            ended += _end_scheduled(config, ExecutorFolder(path))
        ended += _end(holder_of(folder.router_lock), "router", ROUTER_GRACE_S)
        ended += _end(holder_of(folder.router_drain_lock), "router before it", ROUTER_GRACE_S)
        for path in sorted((folder.root / "engines").iterdir()) if (folder.root / "engines").is_dir() else ():
            # By the folders, not by the configuration: an engine may have been taken out of it since.
            ended += _end(holder_of(path / "engine.lock"), f"engine {path.name}", ENGINE_GRACE_S)
    if not ended:
        click.echo("nothing ran")


def _end(pid: int | None, what: str, grace_s: float) -> int:
    if pid is None:
        return 0
    click.echo(f"{what} (pid {pid}) {end_process(pid, what, grace_s=grace_s)}")
    return 1


def _end_scheduled(config: AgentConfig, folder: ExecutorFolder) -> int:
    attempt = folder.read()
    if attempt is None or attempt.ended or not (attempt.scheduled or attempt.submitting):
        return 0
    job = attempt.scheduled or f"--name={folder.name}"  # its id is not known: Slurm may have taken it, and may not
    click.echo(f"job {folder.path.name} is Slurm's ({job}), and is ended there")

    async def end() -> None:
        async with asyncio.timeout(GRACE_S + EXECUTOR_GRACE_S):
            await backend_of(config)(folder, attempt).end()

    try:
        asyncio.run(end())
    except TimeoutError:
        click.echo(f"Slurm was not reached, and the job may run on: once it answers, run scancel {job}", err=True)
    return 1


def _executor_pid(folder: ExecutorFolder) -> int | None:
    attempt = folder.read()
    if attempt is None or not LocalProcesses(folder, attempt).look().alive:
        return None
    return attempt.pid
