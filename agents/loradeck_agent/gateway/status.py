"""The file in which a gateway keeps its table, and the status that `loradeck-agent status` shows of it."""

import time
from collections.abc import Mapping
from typing import Any

from loradeck.rules.serving.gateway import NodeHealth
from loradeck.schemas.ids import Name, Wire
from loradeck.schemas.link import Desired, Serving

FILE, LOCK, SOCKET = "gateway.json", "gateway.lock", "gateway.sock"
"""In the state folder: what outlives the process, the lock that it holds, and where it tells its status."""


class Saved(Wire):
    """The file of a gateway: the whole table, and where it is served, as a hub would send them."""

    desired: Desired
    serving: Serving


def status_of(gateway: str, saved: Saved, health: Mapping[Name, NodeHealth]) -> dict[str, Any]:
    """The table, the nodes with their state and rest, and where each route is served.

    `health`: of the nodes; empty where the gateway does not run.
    """
    now, served = time.monotonic(), {route.key: route.nodes for route in saved.serving.routes}
    nodes: list[dict[str, Any]] = []
    for name, address in sorted((saved.serving.nodes or {}).items()):
        row: dict[str, Any] = {"node": name, "address": address, "lost": name in saved.serving.lost}
        if (seen := health.get(name)) is not None:
            row |= {"under_way": seen.under_way, "failures": seen.failures}
            row |= {"rest_s": round(seen.rest_s(now), 1), "stalled": seen.is_stalled(now)}
        nodes.append(row)
    routes = [
        {
            "tenant": entry.tenant,
            "route": entry.route,
            "generation": entry.generation,
            "current": {"id": entry.current.id, "label": entry.current.label},
            "suspended": entry.suspended,
            "nodes": served.get(entry.key, {}),
        }
        for entry in sorted(saved.desired.entries, key=lambda entry: entry.key)
        if entry.current is not None
    ]
    table = {"epoch": saved.desired.epoch, "rev": saved.desired.rev, "hash": saved.desired.hash}
    return {"gateway": gateway, "table": table, "nodes": nodes, "routes": routes}
