"""The part of `loradeck-agent status` that a gateway's configuration gets."""

import contextlib
import time
from typing import Any

from pydantic import ValidationError

from loradeck.schemas.ids import short
from loradeck_agent.gateway.status import FILE, LOCK, SOCKET, Saved, status_of
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.http_client import Endpoint, HttpClient
from loradeck_agent.host.state_folder import holder_of


async def collect(config: AgentConfig) -> dict[str, Any]:
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


def lines(document: dict[str, Any], link: str) -> list[str]:
    """The document in words. `link`: its link, in words."""
    table = document["table"]
    process = f"pid {document['pid']}, {link}" if document["pid"] else "does not run"
    age = f"saved {document.get('saved_s')} s ago"
    if document["link"] is not None:
        age = f"the hub's last word is {document['link']['silent_s']} s old"
    routes = document["routes"]
    out = [f"gateway {document['gateway']}: {process}"]
    out.append(f"table   epoch {table['epoch']} rev {table['rev']}, {len(routes)} routes; {age}")
    out += [f"node    {node['node']} at {node['address']}: {_state(node)}" for node in document["nodes"]]
    for route in routes:
        name = f"{route['current']['label'] or '-'} ({short(route['current']['id'])})"
        served = ", ".join(f"{node} {level}" for node, level in route["nodes"].items()) or "NO NODE"
        suspended = ", SUSPENDED" if route["suspended"] else ""
        out.append(f"route   {route['tenant']}/{route['route']} g{route['generation']}: {name} on {served}{suspended}")
    return out


def _state(node: dict[str, Any]) -> str:
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
