"""How long it takes until a row tells that a router is dead, an engine hangs, or a node is lost, with all its counts.

Of two real nodes, the router of one is killed, and its agent starts another one; its engine is stopped (SIGSTOP); its
link goes silent, with nothing arriving and nobody told. The row is asked for every 20 ms, as a console that watches has
it. Each fault is over, and the row proven again, before the next.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.rows import Row
from tests.faults.test_partition import CutOffFleet
from tests.fleets.processes.fleet import TENANT, fleet_at, lay, make_material

from incident.fleet import wait_for
from incident.incident import ROUTE
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.schemas.replica_state import LOST_S
from loradeck_agent.host.state_folder import StateFolder, holder_of
from loradeck_agent.reports import REPORT_S
from loradeck_agent.serving.liveness import LOOK_S, SILENCES

ROUNDS = 5
ASKED_S = 0.02
WITHIN_S = 60.0


def measure(*, rounds: int = ROUNDS) -> list[Row]:
    """About five minutes on two free cores."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        material = make_material(Path(folder))
        with fleet_at(material.base, CutOffFleet, joins=False) as fleet:
            assert isinstance(fleet, CutOffFleet)
            lay(fleet, material)
            state = StateFolder(fleet.far.state)
            taken: dict[str, list[float]] = {name: [] for name in ("router", "engine", "node")}
            for _ in range(rounds):
                pid = _pid(state.router_lock)
                taken["router"].append(asyncio.run(_told(fleet, lambda pid=pid: os.kill(pid, signal.SIGKILL))))
                engine = _pid(state.engine_lock("e0"))
                try:
                    stop = lambda pid=engine: os.kill(pid, signal.SIGSTOP)  # noqa: E731
                    taken["engine"].append(asyncio.run(_told(fleet, stop)))
                finally:
                    os.kill(engine, signal.SIGCONT)
                try:
                    taken["node"].append(asyncio.run(_told(fleet, fleet.wire.swallow)))
                finally:
                    fleet.wire.heal()
    settings = {
        "router": ("a router is killed", "time between two reports of a node", REPORT_S, 3.0),
        "engine": ("an engine hangs", "silence after which an engine counts as hung", SILENCES * LOOK_S, 1.6),
        "node": ("a node's link is silent", "silence after which a node counts as lost", LOST_S, 1.3),
    }
    return [row for name, setting in settings.items() for row in _rows(max(taken[name]), rounds, *setting)]


def _rows(worst: float, rounds: int, what: str, which: str, setting_s: float, budget: float) -> list[Row]:
    """A time, and its ratio to what it follows from. `which`: in words, what the setting is the time of."""
    return [
        Row(f"{what}: on the row, worst", worst, "s", rounds),
        Row(
            f"{what}: on the row, worst, against its setting",
            worst / setting_s,
            "x",
            rounds,
            budget,
            how=f"{which}: {setting_s:g} s",
            reference="setting",
        ),
    ]


def _pid(lock: Path) -> int:
    pid: int = wait_for(f"holder of {lock}", lambda: holder_of(lock), 30)
    return pid


async def _told(fleet: CutOffFleet, fault: Callable[[], None]) -> float:
    """Seconds from a fault of the far node until the row counts it no more. The row is proven on both before."""
    async with HubApi.to(Context(name="bench", socket=fleet.socket)) as api, asyncio.timeout(WITHIN_S):
        await _until(api, counted=True)
        began = time.perf_counter()
        fault()
        await _until(api, counted=False)
        return time.perf_counter() - began


async def _until(api: HubApi, *, counted: bool) -> None:
    """Waits until the row counts both nodes as flipped and proven, or until it no longer does."""
    while True:
        row = await api.row(TENANT, ROUTE)
        if (row.flipped == 2 and row.proven == 2) is counted:
            return
        await asyncio.sleep(ASKED_S)
