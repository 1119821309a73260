"""`loradeck-agent restart-router`: another router in the place of the one that runs, with no connection refused."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import click

from loradeck_agent.cli.shared import config_option
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import StateFolder, holder_of
from loradeck_agent.router.client import RouterControl
from loradeck_agent.router.wire import RouterState

PATIENCE_S = 45.0
_LOOK_S = 0.1


@click.command("restart-router")
@config_option
def restart_router(config: AgentConfig) -> None:
    """Has a new router take over from the one that runs, and refuses no connection.

    The new one is ready before the old one stops. The old one then ends the answers that it has begun. A running agent
    does the same by itself where the router that it finds is of another build: after an upgrade, start the agent again.
    If the new router does not come up, the old one goes on.
    """
    folder = StateFolder(config.state)
    agent = holder_of(folder.lock)
    if agent is None:
        raise Unreachable("the agent", "it does not run, and the router is its to start: loradeck-agent run")
    if not _takes(agent, signal.SIGUSR2):
        raise AgentError(
            "earlier_agent",
            "the agent that runs is of an earlier version, which cannot replace its router",
            f"pid {agent}",
            "end it and start it again: the new one replaces the router by itself, if that can hand over",
        )
    before, after = asyncio.run(_replaced(folder, agent))
    drains = f"; pid {after.drains} ends what it has begun" if after.drains is not None else ""
    click.echo(f"router pid {after.pid} (build {after.build}) has taken over from pid {before.pid}{drains}")


def _takes(pid: int, number: signal.Signals) -> bool:
    """Tells whether a process has a handler for a signal: one that has none is ended by it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


async def _replaced(folder: StateFolder, agent: int) -> tuple[RouterState, RouterState]:
    with contextlib.closing(RouterControl(folder)) as router:
        before = await router.state()
        if not before.build:
            raise AgentError(
                "cannot_hand_over",
                "the router that runs is of a version that cannot hand over",
                f"pid {before.pid}",
                f"end it, and the agent starts the new one; connections are refused for a moment: kill {before.pid}",
            )
        if before.drains is not None:
            raise AgentError(
                "still_drains",
                "the router before the one that runs still ends what it has begun",
                f"pid {before.drains}",
                "call again once it has ended",
            )
        os.kill(agent, signal.SIGUSR2)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(AgentError):
                if (after := await router.state()).boot != before.boot:
                    return before, after
    raise AgentError(
        "not_replaced",
        "no other router has taken over; the one that ran goes on, if it can",
        f"its log is {folder.router_log}",
        "see that log and the agent's",
    )
