"""R to flipped: one replica, the prior resident, engines idle; beside the floor of what it cannot do without.

The floor is measured in the same run on the same disk: one store commit, one append + fdatasync, and three
loopback round trips. What the key itself costs on top is read off a real console in a pseudo-terminal.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

import httpx
from tests.bench.rows import Row, quantile
from tests.fleet import TENANT, fleet_at, lay, make_material

from incident.fleet import BIN, Fleet
from incident.keyboard import Keyboard
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.request import rollback_request
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Draft, EventKind, PointerState
from loradeck.schemas.moves import UndoRequest
from loradeck.store.sqlite import SqliteStore

MOVES = 200
KEYS = 10
ROUTE = "production"


def measure(*, moves: int = MOVES, keys: int = KEYS) -> list[Row]:
    """Starts a hub and one node; about 60 s on two free cores."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        material = make_material(Path(folder))
        with fleet_at(material, names=("gpu-01",)) as fleet:
            lay(fleet, material)
            flips = asyncio.run(_flips(fleet, moves))
            floor = _floor(fleet.root, moves)
            pressed = _keys(fleet, keys)
    p50, p99 = quantile(flips, 50), quantile(flips, 99)
    floor50, floor99 = quantile(floor, 50), quantile(floor, 99)
    return [
        Row(
            "R to flipped, 1 replica, prior resident: p50",
            p50,
            "ms",
            len(flips),
            8.0,
            how="a rollback over the hub's socket, to its answer 'flipped'; an undo, proven, after each",
        ),
        Row("R to flipped, 1 replica, prior resident: p99", p99, "ms", len(flips), 30.0),
        Row(
            "floor: store commit + fdatasync + 3 round trips: p50",
            floor50,
            "ms",
            len(floor),
            how="the three things it cannot do without, alone, on the same disk and hub",
        ),
        Row("floor: store commit + fdatasync + 3 round trips: p99", floor99, "ms", len(floor)),
        Row("R to flipped against that floor: p99 / p99", p99 / floor99, "x", len(flips), 4.0),
        Row(
            "key byte in the pty to FLIPPED in the emulator: p50",
            quantile(pressed, 50),
            "ms",
            len(pressed),
            how="the real console in a pseudo-terminal, its screen read through a terminal emulator",
        ),
        Row("key byte in the pty to FLIPPED in the emulator: worst", max(pressed), "ms", len(pressed)),
    ]


async def _flips(fleet: Fleet, moves: int) -> list[float]:
    """Milliseconds from sending a rollback to its answer 'flipped', with an undo after each."""
    taken: list[float] = []
    async with HubApi.to(Context(name="bench", socket=fleet.socket)) as api:
        for turn in range(moves + 5):
            row = await api.row(TENANT, ROUTE)
            back = rollback_request(row.preview, key=new_key(), reason="bench")
            began = time.perf_counter()
            result = await api.rollback(TENANT, ROUTE, back, wait="flipped", timeout=10)
            ms = (time.perf_counter() - began) * 1000
            assert result.reached == "flipped", result
            if turn >= 5:  # the first ones open connections
                taken.append(ms)
            undo = UndoRequest(event=result.events[0].id, confirmed=True, idempotency_key=new_key())
            await api.undo(TENANT, ROUTE, undo, wait="proven", timeout=10)
    return taken


def _floor(folder: Path, moves: int) -> list[float]:
    """Milliseconds of the three parts together, n times, on the fleet's own disk and hub."""
    store = SqliteStore(folder / "floor" / "hub.db")
    store.take_lease("bench")
    pointer = PointerState(tenant="bench", route="production")
    file = os.open(folder / "floor" / "table", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    line = b"x" * 1500
    taken: list[float] = []
    transport = httpx.HTTPTransport(uds=str(folder / "hub" / "hub.sock"))
    with httpx.Client(transport=transport, base_url="http://hub") as hub:
        for turn in range(moves + 5):
            pointer = pointer.model_copy(update={"generation": pointer.generation + 1, "release": f"{turn % 2:064x}"})
            draft = Draft(
                kind=EventKind.PROMOTE,
                tenant="bench",
                route="production",
                pointer=pointer,
                actor="bench",
                role=Role.RELEASER,
            )
            began = time.perf_counter()
            store.commit([draft], key=f"bench-{turn:08}")
            os.write(file, line)
            os.fdatasync(file)
            for _ in range(3):
                hub.get("/healthz").raise_for_status()
            if turn >= 5:
                taken.append((time.perf_counter() - began) * 1000)
    os.close(file)
    store.close()
    return taken


def _keys(fleet: Fleet, keys: int) -> list[float]:
    """Milliseconds from the key R to FLIPPED on the terminal's screen, with an undo after each."""
    taken: list[float] = []
    with Keyboard((str(BIN / "loradeck"), "--hub", f"unix:{fleet.socket}")) as keyboard:
        for _ in range(keys):
            keyboard.wait("R ARMED, no result", lambda text: "R ARMED" in text and "FLIPPED" not in text, 30)
            pressed = keyboard.press("R")
            seen = keyboard.wait("FLIPPED 1/1", lambda text: "FLIPPED 1/1" in text, 15)
            taken.append((seen - pressed) / 1e6)
            keyboard.wait("BACK ON v1", lambda text: "BACK ON v1" in text, 30)
            keyboard.press("u")
            keyboard.wait("BACK ON v2", lambda text: "BACK ON v2" in text, 30)
            keyboard.press("\x1b")  # the panel
            keyboard.wait("the preview", lambda text: "MOVES" in text, 30)
            keyboard.press("\x1b")  # the last result
    return taken
