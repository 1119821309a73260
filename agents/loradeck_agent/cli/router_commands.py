"""The commands that ask a node's router: `loradeck-agent pin`, `trace` and `restart-router`.

A pin is a release chosen on the node, when the hub cannot choose it. The trace tells who was served by which release,
request by request. Another router takes the place of the one that runs with no connection refused.
"""

import asyncio
import contextlib
import getpass
import json
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from loradeck.schemas.ids import short
from loradeck.schemas.link import Ack
from loradeck.schemas.manifest import Form
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry
from loradeck_agent.cli.shared import config_option
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import StateFolder, holder_of
from loradeck_agent.router.client import RouterControl
from loradeck_agent.router.wire import RouterState


@click.command()
@click.argument("tenant")
@click.argument("route")
@click.option("--to", "release", required=True, help="A release of the route: its id (or a start of it), 'v7', 'base'.")
@click.option("--reason", required=True, help="Why; it is kept and shown on the hub.")
@config_option
def pin(config: AgentConfig, tenant: str, route: str, release: str, reason: str) -> None:
    """Puts a release in force on this node, over the hub.

    It works without the hub and without the agent, is durable when the command ends, is shown as drift once the hub is
    back, and ends only by an unpin on the hub.
    """
    if not reason.strip():
        raise AgentError("reason_required", "a pin needs a reason", "", "say why with --reason")
    made, left, acks = asyncio.run(_pin(config, tenant, route, release, reason.strip()))
    _notify_agent(StateFolder(config.state))
    click.echo(f"pinned {tenant}/{route} to {_named(made.release)}; before: {_named(left) if left else 'nothing'}")
    for ack in acks:
        serving = ack.state is AckState.FLIPPED or ack.code == "pinned"
        why = f"{ack.state.value} {ack.code or ''} {ack.detail}"
        click.echo(f"  {ack.replica}: {'in force' if serving else why}")


def _named(ref: ReleaseRef) -> str:
    return f"{ref.label or '-'} ({short(ref.id)})"


async def _pin(
    config: AgentConfig, tenant: str, route: str, release: str, reason: str
) -> tuple[Pin, ReleaseRef | None, tuple[Ack, ...]]:
    """The pin, what was in force before it, and how each engine stands now."""
    with contextlib.closing(RouterControl(StateFolder(config.state))) as router:
        state = await router.state()
        entry = next((entry for entry in state.entries if entry.key == (tenant, route)), None)
        if entry is None:
            known = ", ".join(sorted("/".join(entry.key) for entry in state.entries)) or "none"
            raise AgentError(
                "unknown_route", "there is no such route on this node", f"{tenant}/{route}; it has: {known}"
            )
        ref = choose(entry, release)
        left = next((force.release for force in state.in_force if (force.tenant, force.route) == entry.key), None)
        made = Pin(
            tenant=tenant,
            route=route,
            release=ref,
            over=entry.fence,
            actor=getpass.getuser(),
            reason=reason,
            at_ms=time.time_ns() // 1_000_000,
            left=left.id if left else None,
        )
        ready = {name for names in state.ready.values() for name in names}
        if ref.release.form is Form.ADAPTER and ref.id not in ready:
            click.echo(
                f"note: {short(ref.id)} is not loaded here yet; until it is, the route's gap policy holds", err=True
            )
        return made, left, await router.pin(made)


def choose(entry: TableEntry, wanted: str) -> ReleaseRef:
    """The release of an entry that a person means: by label, id, or the start of an id.

    Raises: AgentError: `unknown_release` or `ambiguous_release`; the detail lists what there is.
    """
    refs = {ref.id: ref for ref in entry.refs}
    for ref in list(refs.values()):
        base = ReleaseRef.of_base(entry.tenant, ref.release.base)
        refs.setdefault(base.id, base)
    found = [ref for ref in refs.values() if ref.label == wanted or (len(wanted) >= 4 and ref.id.startswith(wanted))]
    known = ", ".join(_named(ref) for ref in refs.values())
    if not found:
        raise AgentError("unknown_release", "the route has no such release on this node", f"{wanted}; it has: {known}")
    if len(found) > 1:
        raise AgentError("ambiguous_release", "more than one release fits", f"{wanted}; it has: {known}")
    return found[0]


def _notify_agent(folder: StateFolder) -> None:
    """Lets a running agent read the router's pins now; without one, the next agent reads them."""
    agent = holder_of(folder.lock)
    if agent is not None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(agent, signal.SIGUSR1)


@click.command()
@click.option("--tenant", help="Only this tenant's requests.")
@click.option("--after", type=int, default=0, help="Only rows with a higher seq.")
@click.option("--last", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest last.")
@click.option("--json", "as_json", is_flag=True, help="All rows as JSON.")
@config_option
def trace(config: AgentConfig, tenant: str | None, after: int, last: int, as_json: bool) -> None:
    """Prints the router's trace: the newest 10,000 requests it admitted."""
    query = urlencode({"after": after, **({"tenant": tenant} if tenant else {})})
    rows = asyncio.run(_rows(config, query))
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows[-last:]:
        at = datetime.fromtimestamp(row["admitted_ms"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
        ms = row["finished_ms"] - row["admitted_ms"]
        bad = " BAD" if row["bad"] else ""
        click.echo(
            f"{row['seq']:>7} {at}Z {row['tenant']}/{row['route']} g{row['generation']} {short(row['release'])} "
            f"{row['replica']} {row['status']} {ms} ms{bad}"
        )


async def _rows(config: AgentConfig, query: str) -> list[dict[str, Any]]:
    with contextlib.closing(RouterControl(StateFolder(config.state))) as router:
        rows: list[dict[str, Any]] = (await router.trace(query))["rows"]
        return rows


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
