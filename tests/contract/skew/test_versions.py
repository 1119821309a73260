"""Hub, agents and routers of neighbouring versions of the wire work together, whichever of them is the newer one."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess

import pytest
from tests.contract.skew.earlier import Earlier, build
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay, make_material, row, told
from tests.fleets.processes.served import answered_by, tables

from incident.fleet import BIN, Fleet, Node, NotReady, wait_for
from incident.incident import Cast
from incident.traffic import Callers

pytestmark = [pytest.mark.timeout(300), pytest.mark.drawn(seconds=60)]

ONE = ("gpu-01",)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Earlier:
    return build(tmp_path_factory.mktemp("earlier"))


def roll_back(fleet: Fleet) -> None:
    fleet.cli("rollback", TENANT, "--yes", "--wait", "proven", "--timeout", "60")


def counted(fleet: Fleet) -> bool:
    """Whether the hub has counted requests of the live release."""
    return bool(row(fleet)["cause"]["live"]["requests"])


def router_pid(node: Node) -> str:
    """The process that holds the lock of a node's table."""
    return (node.state / "router" / "router.lock").read_text()


async def serves(fleet: Fleet, cast: Cast, key: str, label: str) -> None:
    """Asks the routers, compares the tokens, and waits until the hub has counted the requests."""
    release = cast.releases[label]
    async with Callers({node.name: node.url for node in fleet.nodes}, {TENANT: key}, max_tokens=12) as callers:
        prompts = cast.telling(release, next(r for r in cast.releases.values() if r != release))[:4]
        assert set(await answered_by(fleet, callers, prompts)) == {release}
    for table in (await tables(fleet)).values():
        assert table.admits_to == release
    await asyncio.to_thread(wait_for, "requests are counted", lambda: counted(fleet), 60)


async def test_agents_of_the_version_before_work_with_this_hub(material: Material, earlier: Earlier) -> None:
    with fleet_at(material.base, names=ONE, joins=False, program=(str(earlier.agent),)) as fleet:
        cast, key = await asyncio.to_thread(lay, fleet, material)
        await serves(fleet, cast, key, "v2")
        await asyncio.to_thread(roll_back, fleet)
        await serves(fleet, cast, key, "v1")


async def test_a_hub_of_the_version_before_works_with_these_agents_and_its_database_is_taken_over(
    material: Material, earlier: Earlier
) -> None:
    with fleet_at(material.base, names=ONE, joins=False, hub_program=(str(earlier.hub),)) as fleet:
        cast, key = await asyncio.to_thread(lay, fleet, material)
        await serves(fleet, cast, key, "v2")
        await asyncio.to_thread(roll_back, fleet)
        await serves(fleet, cast, key, "v1")
        before = await asyncio.to_thread(row, fleet)

        await asyncio.to_thread(fleet.stop_hub)
        older = fleet.root / "older.db"
        shutil.copyfile(fleet.data / "hub.db", older)
        this, fleet.hub_program = fleet.hub_program, Fleet.hub_program
        await asyncio.to_thread(fleet.start_hub)
        await asyncio.to_thread(fleet.wait_until_up)
        after = await asyncio.to_thread(row, fleet)
        assert after["pointer"] == before["pointer"]
        await asyncio.to_thread(fleet.cli, "undo", TENANT, "--yes", "--wait", "proven", "--timeout", "60")
        await serves(fleet, cast, key, "v2")

        # The way back is refused in words, and the database is left alone.
        await asyncio.to_thread(fleet.stop_hub)
        fleet.hub_program, newer = this, (fleet.data / "hub.db").read_bytes()
        with pytest.raises(NotReady, match="which this Loradeck does not know"):
            await asyncio.to_thread(fleet.start_hub)
        assert (fleet.data / "hub.db").read_bytes() == newer
        os.replace(older, fleet.data / "hub.db")


async def test_an_upgrade_of_a_hub_is_taken_back_by_a_command_and_keeps_what_was_moved_since(
    material: Material, earlier: Earlier
) -> None:
    with fleet_at(material.base, names=ONE, joins=False, hub_program=(str(earlier.hub),)) as fleet:
        cast, key = await asyncio.to_thread(lay, fleet, material)
        await asyncio.to_thread(fleet.stop_hub)
        older, fleet.hub_program = fleet.hub_program, Fleet.hub_program
        await asyncio.to_thread(fleet.start_hub)
        await asyncio.to_thread(fleet.wait_until_up)
        await asyncio.to_thread(roll_back, fleet)
        moved = (await asyncio.to_thread(row, fleet))["pointer"]
        await asyncio.to_thread(fleet.stop_hub)

        command = [
            str(BIN / "loradeck"),
            "hub",
            "migrate",
            "--from",
            str(fleet.data / "hub.db"),
            "--down",
            "0001_first",
        ]
        done = await asyncio.to_thread(subprocess.run, [*command, "--yes"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "taken back: 0002_head\n" in done.stdout
        fleet.hub_program = older
        await asyncio.to_thread(fleet.start_hub)
        await asyncio.to_thread(fleet.wait_until_up)
        now = (await asyncio.to_thread(row, fleet))["pointer"]
        assert [now[name] for name in ("release", "generation", "beneath", "last_move")] == [
            moved[name] for name in ("release", "generation", "beneath", "last_move")
        ]
        await serves(fleet, cast, key, "v1")
        undo = [earlier.hub, "--hub", f"unix:{fleet.socket}", "undo", TENANT, "--yes", "--wait", "proven"]
        await asyncio.to_thread(subprocess.run, undo, check=True)
        await serves(fleet, cast, key, "v2")


async def test_a_router_of_the_version_before_is_adopted_by_an_agent_of_this_one(
    material: Material, earlier: Earlier
) -> None:
    with fleet_at(material.base, names=ONE, joins=False, program=(str(earlier.agent),)) as fleet:
        cast, key = await asyncio.to_thread(lay, fleet, material)
        (node,) = fleet.nodes
        router = router_pid(node)
        await asyncio.to_thread(fleet.kill_agent, node)
        node.program = Fleet.program
        await asyncio.to_thread(fleet.start_agent, node)
        await asyncio.to_thread(fleet.wait_until_up)
        assert router_pid(node) == router, told(fleet)
        await asyncio.to_thread(roll_back, fleet)
        await serves(fleet, cast, key, "v1")
        assert router_pid(node) == router, told(fleet)
