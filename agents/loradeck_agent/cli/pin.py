"""`loradeck-agent pin`: a release chosen on the node, when the hub cannot choose it."""

import asyncio
import contextlib
import getpass
import os
import signal
import time

import click

from loradeck.schemas.ids import short
from loradeck.schemas.link import Ack
from loradeck.schemas.manifest import Form
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry
from loradeck_agent.cli.shared import config_option
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder, holder_of
from loradeck_agent.router.client import RouterControl


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
