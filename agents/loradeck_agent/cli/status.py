"""What this node runs and serves: `loradeck-agent status` says it, asked of router and engines, and `stop` ends it.

A gateway's configuration gets the table by which it sends callers on.
"""

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

import click
from pydantic import ValidationError

from loradeck.artifacts.notes import KeyKind, verifier_key, witness_of
from loradeck.schemas.ids import PointerKey, short
from loradeck.schemas.replica_state import LINK_TTL_S
from loradeck_agent.cli.shared import EXIT_NOT_RUNNING, config_option
from loradeck_agent.gateway.status import FILE, LOCK, SOCKET, Saved, status_of
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.engine_config import EngineConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.http_client import Endpoint, HttpClient
from loradeck_agent.host.identity import Cosigner, Identity
from loradeck_agent.host.state_folder import StateFolder, holder_of
from loradeck_agent.host.supervisor import end_process
from loradeck_agent.jobs.attempt import ExecutorFolder
from loradeck_agent.jobs.backend import GRACE_S
from loradeck_agent.jobs.launch import backend_of
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
        document = asyncio.run(collect_gateway(config))
        said, runs = gateway_lines(document, _link_line(document["link"])), document["pid"] is not None
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


# ---- a gateway -------------------------------------------------------------------------------------------------


async def collect_gateway(config: AgentConfig) -> dict[str, Any]:
    """Asks the gateway on this state folder, or reads its file where none runs.

    Raises: AgentError: none runs, and the file cannot be read.
    """
    pid, file = holder_of(config.state / LOCK), config.state / FILE
    if pid is not None:
        with (
            contextlib.suppress(AgentError),
            contextlib.closing(HttpClient(Endpoint(unix=config.state / SOCKET))) as gateway,
        ):
            document: dict[str, Any] = (await gateway.get("/status", timeout=5)).json()
            return document | {"pid": pid}
    try:
        saved, saved_s = Saved.model_validate_json(file.read_bytes()), max(0, int(time.time() - file.stat().st_mtime))
    except (OSError, ValidationError) as error:
        raise AgentError(
            "table_unreadable", "the gateway does not run, and its table cannot be read", str(error)
        ) from error
    return status_of(config.node, saved, {}) | {"pid": pid, "link": None, "saved_s": saved_s}


def gateway_lines(document: dict[str, Any], link: str) -> list[str]:
    """The document in words. `link`: its link, in words."""
    table = document["table"]
    process = f"pid {document['pid']}, {link}" if document["pid"] else "does not run"
    age = f"saved {document.get('saved_s')} s ago"
    if document["link"] is not None:
        age = f"the hub's last word is {document['link']['silent_s']} s old"
    routes = document["routes"]
    out = [f"gateway {document['gateway']}: {process}"]
    out.append(f"table   epoch {table['epoch']} rev {table['rev']}, {len(routes)} routes; {age}")
    out += [f"node    {node['node']} at {node['address']}: {_node_state(node)}" for node in document["nodes"]]
    for route in routes:
        name = f"{route['current']['label'] or '-'} ({short(route['current']['id'])})"
        served = ", ".join(f"{node} {level}" for node, level in route["nodes"].items()) or "NO NODE"
        suspended = ", SUSPENDED" if route["suspended"] else ""
        out.append(f"route   {route['tenant']}/{route['route']} g{route['generation']}: {name} on {served}{suspended}")
    return out


def _node_state(node: dict[str, Any]) -> str:
    said = []
    if node["lost"]:
        said.append("LOST by the hub, asked last")
    if node.get("rest_s"):
        said.append(f"FAILED {node['failures']} times in a row, asked last for {node['rest_s']:.1f} s")
    if node.get("stalled"):
        said.append("STALLED: it sends nothing, asked last")
    if "under_way" in node:
        said.append(f"{node['under_way']} under way")
    return ", ".join(said) or "known"


# ---- stop ------------------------------------------------------------------------------------------------------

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
