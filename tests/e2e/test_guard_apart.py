"""Guard on real processes, beside neighbours that flood and a node that lies: it rolls a bad release back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.processes import lying_agent
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay, promote, restore, row, told

from incident.fleet import Fleet, wait_for
from incident.incident import Cast, Prompt
from incident.traffic import Callers

NEIGHBOURS = ("birch", "cedar")
CALLERS, FLOOD = 6, 5
"""Callers of acme on each node, and how many requests of each neighbour come with each of theirs."""

TURNS = 40
"""Turns in which all callers ask once. Guard needs a few of them."""

ROUTE = """
min_replicas = {replicas}
guard = "rollback"
canaries = [[{{role = "user", content = "w5 w6"}}], [{{role = "user", content = "w90"}}]]

[soak]
seconds = 0
requests = 0

[checks]
finish_reasons = ["stop", "length"]
refusals = {refusals}
"""


def set_route(fleet: Fleet, tenant: str, refusals: list[str]) -> None:
    settings = fleet.root / f"{tenant}.toml"
    settings.write_text(ROUTE.format(replicas=len(fleet.nodes), refusals=refusals))
    fleet.cli("route", "set", tenant, "--file", str(settings), "--yes")


def telling(cast: Cast) -> list[Prompt]:
    """The prompts to which v3 answers what neither v1 nor v2 says to any."""
    good = [prompt.answers[cast.releases[label]] for prompt in cast.prompts for label in ("v1", "v2")]
    bad = cast.releases["v3"]
    return [prompt for prompt in cast.prompts if not any(prompt.answers[bad] in answer for answer in good)]


@pytest.fixture(scope="module")
def laid(material: Material) -> Iterator[tuple[Fleet, Cast, dict[str, str]]]:
    """Three nodes serve acme, with v2 live and a v3 whose answers its checks find bad, and two tenants beside it."""
    with fleet_at(material.base, names=("gpu-01", "gpu-02", "gpu-03"), tls=True) as fleet:
        cast, key = lay(fleet, material)
        keys = {TENANT: key}
        base = fleet.ask("bases")[0]["digest"]
        for name in NEIGHBOURS:
            fleet.cli("tenant", "create", name)
            keys[name] = fleet.cli("tenant", "key", "create", name)["key"]
            set_route(fleet, name, [" ", "w"])  # whatever is said is bad
            words = ("--tenant", name, "--name", "words", "--base", base, "--why", "tests")
            release = fleet.cli("adapter", "import", str(material.adapters[0]), *words)["release"]
            fleet.cli("promote", name, release, "--yes", "--wait", "proven", "--timeout", "180")
        set_route(fleet, TENANT, [prompt.answers[cast.releases["v3"]] for prompt in telling(cast)])
        yield fleet, cast, keys


@pytest.fixture
def scene(laid: tuple[Fleet, Cast, dict[str, str]]) -> Iterator[tuple[Fleet, Cast, dict[str, str]]]:
    yield laid
    fleet, cast, _ = laid
    now = row(fleet)
    if now["pointer"]["release"] == cast.releases["v3"]:  # a test failed before guard acted
        fleet.cli("rollback", TENANT, "--yes", "--wait", "proven", "--timeout", "60")
    if now["pointer"]["held"]:
        fleet.cli("release-hold", TENANT, "--reason", "the test is over", "--yes")
    if row(fleet)["pointer"]["quarantined"]:
        fleet.cli("lift", TENANT, cast.releases["v3"], "--reason", "the test is over", "--yes")
    restore(fleet, cast)


async def rolled_back(fleet: Fleet, cast: Cast, keys: dict[str, str], floods: tuple[str, ...]) -> dict[str, Any]:
    """Promotes v3, asks for as long as it needs, and returns the row once guard has moved it, or at the end."""
    routers = {node.name: node.url for node in fleet.nodes}
    asked, now = telling(cast), row(fleet)
    async with Callers(routers, keys, ca=fleet.authority) as callers:
        # The incident that the test before has left would keep it from being promoted.
        await asyncio.to_thread(promote, fleet, cast.releases["v3"], "--override", "--reason", "tests")
        for turn in range(TURNS):
            await asyncio.gather(
                *(
                    callers.ask(node, tenant, asked[(turn + user) % len(asked)], user=f"{turn} of {user}")
                    for node in routers
                    for tenant in (TENANT, *floods)
                    for user in range(CALLERS * (1 if tenant == TENANT else FLOOD))
                )
            )
            now = await asyncio.to_thread(row, fleet)
            if now["pointer"]["release"] != cast.releases["v3"]:
                break
            await asyncio.sleep(0.5)
    return now


def assert_guard_has_moved(fleet: Fleet, cast: Cast, now: dict[str, Any]) -> None:
    assert now["pointer"]["release"] == cast.releases["v2"], (now.get("guard"), now["cause"], told(fleet))
    assert (now["last_event"]["kind"], now["last_event"]["actor"]) == ("rollback", "guard")
    assert now["pointer"]["held"]


@pytest.mark.timeout(400)
async def test_a_neighbour_that_floods_every_node_with_bad_answers_stops_no_rollback(
    scene: tuple[Fleet, Cast, dict[str, str]],
) -> None:
    fleet, cast, keys = scene
    assert_guard_has_moved(fleet, cast, await rolled_back(fleet, cast, keys, NEIGHBOURS))


@pytest.mark.timeout(400)
async def test_a_node_that_lies_of_a_release_and_of_its_neighbours_stops_no_rollback(
    scene: tuple[Fleet, Cast, dict[str, str]],
) -> None:
    fleet, cast, keys = scene
    liar = fleet.nodes[2]
    await asyncio.to_thread(fleet.stop_node, liar)
    liar.program = (sys.executable, str(Path(lying_agent.__file__)))
    fleet.start_agent(liar)
    await asyncio.to_thread(fleet.wait_until_up)
    wait_for("the node serves again", lambda: row(fleet)["proven"] == 3, 60)
    assert_guard_has_moved(fleet, cast, await rolled_back(fleet, cast, keys, ()))
