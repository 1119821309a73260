"""What a fleet really serves, told without the hub: the routers' tables, and who answers by the answers' tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from tests.fleets.processes.fleet import TENANT
from tests.fleets.waiting import PATIENCE_S

from incident.fleet import Fleet, Node
from incident.incident import ROUTE
from incident.traffic import Callers, Prompt
from loradeck.schemas.table import Pin, TableEntry
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.router.wire import InForce, RouterState


@dataclass(frozen=True, kw_only=True)
class Table:
    """A router's table. Its rev and epoch go on when a hub restarts; what it serves does not."""

    entries: tuple[TableEntry, ...]
    pins: tuple[Pin, ...]
    in_force: tuple[InForce, ...]

    @property
    def entry(self) -> TableEntry:
        """The tests' pointer."""
        return next(entry for entry in self.entries if entry.key == (TENANT, ROUTE))

    @property
    def admits_to(self) -> str | None:
        """The release that the tests' pointer admits requests to."""
        found = next(one for one in self.in_force if (one.tenant, one.route) == (TENANT, ROUTE))
        return found.release.id if found.release else None


async def table(node: Node) -> Table:
    """What a router says on its own control socket."""
    transport = httpx.AsyncHTTPTransport(uds=str(StateFolder(node.state).router_socket), verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://router", timeout=PATIENCE_S) as client:
        state = RouterState.model_validate_json((await client.get("/control/state")).content)
    return Table(entries=state.entries, pins=state.pins, in_force=state.in_force)


async def tables(fleet: Fleet) -> dict[str, Table]:
    """Node -> its router's table."""
    return {node.name: await table(node) for node in fleet.nodes}


async def answered_by(fleet: Fleet, callers: Callers, prompts: Sequence[Prompt]) -> list[str | None]:
    """The release that answers each prompt on each node, by its tokens; None where that cannot be told."""
    asked = [callers.ask(node.name, TENANT, prompt) for node in fleet.nodes for prompt in prompts]
    return [answer.by for answer in await asyncio.gather(*asked)]
