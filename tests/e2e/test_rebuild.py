"""A hub that lost its folder, database and artifacts and keys, is put together again from what its nodes hold."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay, row, told
from tests.fleets.processes.served import answered_by

from incident.fleet import Fleet, wait_for
from incident.incident import ROUTE
from incident.traffic import Callers


def lose_everything(fleet: Fleet) -> None:
    """The hub ends, its folder is gone, and another one starts. Nodes are given tokens of it, or somebody had kept a
    copy of the authority that their certificates are of.
    """
    fleet.kill_hub()
    kept = fleet.root / "tls"
    if fleet.joins:
        (fleet.data / "tls").rename(kept)
    shutil.rmtree(fleet.data)
    if fleet.joins:
        fleet.data.mkdir(mode=0o700)
        kept.rename(fleet.data / "tls")
    fleet.start_hub()
    for node in () if fleet.joins else fleet.nodes:
        (fleet.root / f"{node.name}.token").unlink()
        words = ("--role", "agent", "--name", node.name, "--node", node.name)
        fleet.cli("token", "create", *words, "--out", str(fleet.root / f"{node.name}.token"))
    fleet.wait_until_up()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("joins", [False, True], ids=["tokens", "a copy of the authority"])
async def test_a_hub_that_lost_everything_is_rebuilt_from_its_nodes_which_serve_on_and_r_works(
    material: Material, joins: bool
) -> None:
    with fleet_at(material.base, joins=joins) as fleet:
        cast, key = await asyncio.to_thread(lay, fleet, material)
        v1, v2 = cast.releases["v1"], cast.releases["v2"]
        prompts = cast.telling(v2, v1)[:4]
        before = await asyncio.to_thread(fleet.cli, "adapter", "ls")
        routers = {node.name: node.url for node in fleet.nodes}
        async with Callers(routers, {TENANT: key}, max_tokens=12) as callers:
            callers.start({TENANT: prompts}, every_s=0.1)
            await asyncio.to_thread(lose_everything, fleet)
            plan = await asyncio.to_thread(fleet.cli, "hub", "rebuild", "--reason", "the host burnt", "--dry-run")
            (step,) = plan["steps"]
            assert (step["tenant"], step["route"], step["release"]) == (TENANT, ROUTE, None)
            assert (step["adopted"]["release"], step["adopted"]["nodes"]) == (v2, ["gpu-01", "gpu-02"])
            assert (await asyncio.to_thread(fleet.ask, "state"))["status"]["rev"] == 0

            found = await asyncio.to_thread(fleet.cli, "hub", "rebuild", "--reason", "the host burnt", "--yes")
            assert found["lacking"] == [], told(fleet)
            adapters = await asyncio.to_thread(fleet.cli, "adapter", "ls")
            known = {(a["digest"], a["version"], a["release"]) for a in before if a["release"] in (v1, v2)}
            assert {(a["digest"], a["version"], a["release"]) for a in adapters} == known
            pointer = (await asyncio.to_thread(row, fleet))["pointer"]
            assert (pointer["release"], pointer["beneath"], pointer["held"]) == (v2, [v1], True)
            await asyncio.to_thread(wait_for, "attested again", lambda: row(fleet)["attested"] == [2, 2], 30)
            assert await answered_by(fleet, callers, prompts) == [v2] * 8
            await callers.stop()
            assert {answer.by for answer in callers.answers} == {v2}, "the nodes served all the time"

            words = ("rollback", TENANT, "--yes", "--wait", "proven", "--timeout", "60")
            back = await asyncio.to_thread(fleet.cli, *words)
            assert back["reached"] == "proven"
            assert await answered_by(fleet, callers, prompts) == [v1] * 8
        again = await asyncio.to_thread(fleet.cli, "hub", "rebuild", "--reason", "once more", "--yes")
        assert again == {"registered": [], "lacking": []}
        assert (await asyncio.to_thread(fleet.cli, "audit", "verify"))["ok"]


@pytest.mark.timeout(300)
async def test_a_rebuild_says_which_adapters_no_node_has(material: Material) -> None:
    with fleet_at(material.base, names=("gpu-01",), joins=False) as fleet:
        cast, _ = await asyncio.to_thread(lay, fleet, material)
        (node,) = fleet.nodes
        digests = {a["release"]: a["digest"] for a in await asyncio.to_thread(fleet.cli, "adapter", "ls")}
        gone = digests[cast.releases["v1"]]
        await asyncio.to_thread(lose_everything, fleet)
        (node.state / "releases" / f"{gone}.json").unlink()
        words = ("hub", "rebuild", "--reason", "the host burnt", "--yes")
        found = await asyncio.to_thread(fleet.cli, *words, check=False)
        assert [(a["digest"], a["label"], a["node"]) for a in found["lacking"]] == [(gone, "v1", None)]
        shown = await asyncio.to_thread(fleet.cli, "adapter", "ls")
        assert [a["release"] for a in shown] == [cast.releases["v2"]]
