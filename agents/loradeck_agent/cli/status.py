"""`loradeck-agent status`: the releases that this node serves, asked of router and engines themselves."""

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

import click

from loradeck.artifacts.notes import KeyKind, verifier_key, witness_of
from loradeck.schemas.ids import PointerKey, short
from loradeck.schemas.replica_state import LINK_TTL_S
from loradeck_agent.cli import gateway_status
from loradeck_agent.cli.shared import EXIT_NOT_RUNNING, config_option
from loradeck_agent.gateway.status import LOCK
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.engine_config import EngineConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.identity import Cosigner, Identity
from loradeck_agent.host.state_folder import StateFolder, holder_of
from loradeck_agent.jobs.attempt import ExecutorFolder
from loradeck_agent.jobs.local_processes import LocalProcesses
from loradeck_agent.router.client import RouterControl
from loradeck_agent.router.table import read_contents
from loradeck_agent.router.wire import RouterState, RouterStats
from loradeck_agent.serving.replica import open_api
from loradeck_agent.uplink.router_files import waiting_and_lost


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@config_option
def status(config: AgentConfig, as_json: bool) -> None:
    """Prints what runs on this node and what it serves; of a gateway, by which table it sends callers on, and to whom.

    Exit status 3 when the router, or the gateway, does not run.
    """
    if not config.engine and (config.state / LOCK).exists():
        document = asyncio.run(gateway_status.collect(config))
        said, runs = gateway_status.lines(document, _link_line(document["link"])), document["pid"] is not None
    else:
        document = asyncio.run(_collect(config))
        said, runs = _lines(document), document["router"] is not None
    for line in [json.dumps(document, indent=1)] if as_json else said:
        click.echo(line)
    if not runs:
        sys.exit(EXIT_NOT_RUNNING)


async def _collect(config: AgentConfig) -> dict[str, Any]:
    folder = config.folder()
    answer = await _ask_router(folder)
    return {
        "node": config.node,
        "agent": {"pid": holder_of(folder.lock), "link": _link(folder)},
        "cosigner": _cosigner(config),
        "table": _table(folder, answer[0] if answer else None),
        "router": _router(*answer) if answer else None,
        "engines": [await _engine(config, folder, engine) for engine in config.engine],
        "jobs": _jobs(folder),
        "ledger": dict(zip(("waiting", "lost"), waiting_and_lost(folder), strict=True)),
    }


def _cosigner(config: AgentConfig) -> dict[str, Any] | None:
    """The key with which this node signs heads of its hub's audit trail, and the newest that it has signed."""
    said = Cosigner(Identity(config.state)).newest()
    if said is None:
        return None
    key = verifier_key(witness_of(config.node), KeyKind.WITNESS, said.key)
    return {"key": key, "size": said.size, "root": said.root, "at_s": said.at_s}


def _link(folder: StateFolder) -> dict[str, Any] | None:
    """The link of the running agent, as it last wrote it; None where none runs."""
    if holder_of(folder.lock) is None:
        return None
    try:
        document: dict[str, Any] = json.loads(folder.status.read_text())
        document["silent_s"] = max(0, int(time.time() - folder.status.stat().st_mtime))
    except (FileNotFoundError, ValueError):
        return None
    return document


async def _ask_router(folder: StateFolder) -> tuple[RouterState, RouterStats] | None:
    with contextlib.suppress(AgentError), contextlib.closing(RouterControl(folder)) as router:
        return await router.state(), await router.stats()
    return None


def _table(folder: StateFolder, state: RouterState | None) -> dict[str, Any]:
    """Shows how far the router's table is and what is pinned, from its file where no router answers."""
    if state is not None:
        cursor, pins = state.cursor, state.pins
    else:
        try:
            contents = read_contents(folder.router)
        except OSError as error:
            return {"error": str(error)}
        cursor, pins = contents.cursor, tuple(contents.pins.values())
    return {
        "epoch": cursor.epoch,
        "rev": cursor.rev,
        "hash": cursor.hash,
        "pins": [pin.model_dump(mode="json") for pin in pins],
    }


def _router(state: RouterState, stats: RouterStats) -> dict[str, Any]:
    pins = {(pin.tenant, pin.route): pin for pin in state.pins}
    force = {f.key: f.release for f in state.in_force}
    streams: dict[PointerKey, int] = {}
    for row in stats.traffic:
        streams[row.tenant, row.route] = streams.get((row.tenant, row.route), 0) + row.streams
    routes = []
    for entry in state.entries:
        pin, serving = pins.get(entry.key), force.get(entry.key)
        routes.append(
            {
                "tenant": entry.tenant,
                "route": entry.route,
                "epoch": entry.epoch,
                "generation": entry.generation,
                "current": _ref(entry.current),
                "in_force": _ref(serving),
                "pin": pin.model_dump(mode="json") if pin else None,
                "streams": streams.get(entry.key, 0),
                "suspended": entry.suspended,
            }
        )
    return state.model_dump(include={"pid", "boot", "build", "drains", "epoch", "rev"}) | {"routes": routes}


def _ref(ref: Any) -> dict[str, str] | None:
    return {"id": ref.id, "label": ref.label} if ref is not None else None


async def _engine(config: AgentConfig, folder: StateFolder, engine: EngineConfig) -> dict[str, Any]:
    api = open_api(engine, folder)
    found: dict[str, Any] = {
        "engine": engine.name,
        "replica": config.replica_of(engine),
        "pid": holder_of(folder.engine_lock(engine.name)),
        "at": (api.address.socket or api.address.url) if engine.attached else None,
        "up": False,
    }
    try:
        if await api.healthy():
            version = await api.version()
            found |= {"up": True, "base": version.base, "slots": version.slots, "build": version.build.key}
            found["loaded"] = sorted(await api.models())
    except AgentError as error:
        found["error"] = str(error)
    finally:
        api.close()
    return found


def _jobs(folder: StateFolder) -> list[dict[str, Any]]:
    out = []
    for path in sorted(folder.jobs.iterdir()) if folder.jobs.is_dir() else ():
        attempt = ExecutorFolder(path).read()
        if attempt is not None and not attempt.ended:
            alive = LocalProcesses(ExecutorFolder(path), attempt).look().alive
            pid, kind = attempt.pid if alive else None, attempt.job.spec.kind
            out.append(
                {"job": attempt.job.id, "kind": kind, "pid": pid, "scheduled": attempt.scheduled, "gpus": attempt.gpus}
            )
    return out


def _lines(document: dict[str, Any]) -> list[str]:
    agent, router = document["agent"], document["router"]
    out = [f"node {document['node']}"]
    pid = f"pid {agent['pid']}" if agent["pid"] else "does not run"
    out.append(f"agent   {pid}, {_link_line(agent['link'])}")
    if router is None:
        out.append(f"router  does not run{_table_line(document['table'])}")
    else:
        drains = f"; pid {router['drains']} before it ends what it has begun" if router["drains"] else ""
        out.append(f"router  pid {router['pid']}, epoch {router['epoch']} rev {router['rev']}{drains}")
    if signed := document["cosigner"]:
        out.append(f"audit   signed {signed['size']} lines of the hub's trail; its key is {signed['key']}")
    if any((ledger := document["ledger"]).values()):
        lost = f", {ledger['lost']} rows of it are lost" if ledger["lost"] else ""
        out.append(f"ledger  {ledger['waiting']} segments wait for the hub{lost}")
    for engine in document["engines"]:
        if engine["up"]:
            what = f"base {short(engine['base'])}, {len(engine['loaded'])} of {engine['slots']} slots"
        else:
            what = "starting" if engine["pid"] else "does not run"
            if engine["at"]:
                what = f"at {engine['at']}, {engine.get('error', 'starting')}"
        out.append(f"engine  {engine['engine']} ({engine['replica']}): {what}")
    for job in document["jobs"]:
        elsewhere = f"Slurm's {job['scheduled']}" if job["scheduled"] else "has no process"
        process = f"pid {job['pid']}" if job["pid"] else elsewhere
        gpus = f", {' '.join(job['gpus'])}" if job["gpus"] else ""
        out.append(f"job     {job['job']} {job['kind']}: {process}{gpus}")
    for route in router["routes"] if router else ():
        current, force, pin = route["current"], route["in_force"], route["pin"]
        name = f"{current['label'] or '-'} ({short(current['id'])})" if current else "removed"
        line = f"route   {route['tenant']}/{route['route']} g{route['generation']}: {name}"
        if pin:
            line += f", PINNED to {pin['release']['label'] or short(pin['release']['id'])}: {pin['reason']}"
        elif current and (force is None or force["id"] != current["id"]):
            line += f", NOT FLIPPED: {force['label'] or short(force['id']) if force else 'nothing'} in force"
        out.append(line)
    return out


def _table_line(table: dict[str, Any]) -> str:
    """The table that a router would start from."""
    if "error" in table:
        return f"; its table cannot be read: {table['error']}"
    if not table["rev"]:
        return ""
    pinned = ", ".join(f"{pin['tenant']}/{pin['route']}" for pin in table["pins"])
    return f"; its table: epoch {table['epoch']} rev {table['rev']}" + (f", pinned: {pinned}" if pinned else "")


def _link_line(link: dict[str, Any] | None) -> str:
    if link is None:
        return "no link"
    if link["silent_s"] > LINK_TTL_S:
        return f"DOES NOT RESPOND for {link['silent_s']} s; whether it has a link is unknown"
    age = max(0, time.time_ns() // 1_000_000 - link["since_ms"]) // 1000
    if link["connected"]:
        refused = f", which refuses to steer it: {link['refused']}" if link["refused"] else ""
        if link.get("contested"):
            refused += "; ANOTHER AGENT IS LINKED AS THIS NODE, and neither counts: loradeck node show says what to do"
        return f"linked to {link['hub']} for {age} s{refused}"
    return f"no link to {link['hub']}: {link['error'] or 'not connected yet'}"
