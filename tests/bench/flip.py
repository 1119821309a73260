"""R to flipped: one replica, the prior resident, engines idle; beside the floor of what it cannot do without.

The floor is measured in turn with it, on the same disk: one store commit, one append + fdatasync, and three
loopback round trips. What the key itself costs on top is read off a real console in a pseudo-terminal.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from tests.bench.rows import Row, quantile
from tests.fleets.processes.fleet import TENANT, fleet_at, lay, make_material

from incident.fleet import BIN, Fleet
from incident.keyboard import Keyboard
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Draft, EventKind, PointerState
from loradeck.schemas.moves import UndoRequest
from loradeck.store.sql_log import Store
from loradeck.store.sqlite import SqliteStore

MOVES = 200
KEYS = 10
ROUTE = "production"
WARM = 5
"""Turns before the first that counts: they open connections."""

LINE = b"x" * 2600
"""About the size of what a router appends for one entry."""


def measure(*, moves: int = MOVES, keys: int = KEYS) -> list[Row]:
    """Starts a hub and one node; about 60 s on two free cores."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        material = make_material(Path(folder))
        with fleet_at(material.base, names=("gpu-01",)) as fleet:
            lay(fleet, material)
            flips, floor = asyncio.run(_flips(fleet, moves))
            pressed = _keys(fleet, keys)
    p50, p99 = quantile(flips, 50), quantile(flips, 99)
    floor50, floor99 = quantile(floor, 50), quantile(floor, 99)
    return [
        Row(
            "R to flipped, 1 replica, prior resident: p50",
            p50,
            "ms",
            len(flips),
            how="a rollback over the hub's socket, to its answer 'flipped'; an undo, proven, after each",
        ),
        Row("R to flipped, 1 replica, prior resident: p99", p99, "ms", len(flips)),
        Row(
            "floor: store commit + fdatasync + 3 round trips: p50",
            floor50,
            "ms",
            len(floor),
            how="the three things it cannot do without, on the same disk and hub, after each rollback and its undo",
        ),
        Row("floor: store commit + fdatasync + 3 round trips: p99", floor99, "ms", len(floor)),
        Row("R to flipped against that floor: p50 / p50", p50 / floor50, "x", len(flips), 1.8, reference="floor"),
        Row("R to flipped against that floor: p99 / p99", p99 / floor99, "x", len(flips), 2.0, reference="floor"),
        Row(
            "key byte in the pty to FLIPPED in the emulator: p50",
            quantile(pressed, 50),
            "ms",
            len(pressed),
            how="the real console in a pseudo-terminal, its screen read through a terminal emulator",
        ),
        Row("key byte in the pty to FLIPPED in the emulator: worst", max(pressed), "ms", len(pressed)),
    ]


async def _flips(fleet: Fleet, moves: int) -> tuple[list[float], list[float]]:
    """Milliseconds from sending a rollback to its answer 'flipped', and those of the floor, in turn; an undo after each
    rollback.
    """
    taken: list[float] = []
    bare: list[float] = []
    async with HubApi.to(Context(name="bench", socket=fleet.socket)) as api:
        with floor_of(fleet, SqliteStore(fleet.root / "floor" / "hub.db")) as floor:
            for turn in range(moves + WARM):
                ms = await back_and_forth(api)
                below = floor()
                if turn >= WARM:
                    taken.append(ms)
                    bare.append(below)
    return taken, bare


async def back_and_forth(api: HubApi) -> float:
    """Milliseconds from sending a rollback to its answer 'flipped'; it is undone, and proven, before this returns."""
    row = await api.row(TENANT, ROUTE)
    back = rollback_request(row.preview, key=new_key(), reason="bench")
    began = time.perf_counter()
    result = await api.send(TENANT, ROUTE, back, wait="flipped", timeout=10)
    ms = (time.perf_counter() - began) * 1000
    assert result.reached in ("flipped", "proven"), result  # the answer may be late
    undo = UndoRequest(event=result.events[0].id, confirmed=True, idempotency_key=new_key())
    await api.send(TENANT, ROUTE, undo, wait="proven", timeout=10)
    return ms


@contextmanager
def floor_of(fleet: Fleet, store: Store) -> Iterator[Callable[[], float]]:
    """What takes the three parts together once, in milliseconds: on the fleet's disk and hub, and on a store, which it
    closes.
    """
    store.take_lease("bench")
    file = os.open(fleet.root / "floor-table", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    generation = itertools.count(1)
    transport = httpx.HTTPTransport(uds=str(fleet.socket))
    with httpx.Client(transport=transport, base_url="http://hub") as hub:

        def once() -> float:
            turn = next(generation)
            pointer = PointerState(tenant="bench", route="production", generation=turn, release=f"{turn % 2:064x}")
            kind, role = EventKind.PROMOTE, Role.RELEASER
            draft = Draft(kind=kind, tenant="bench", route="production", pointer=pointer, actor="bench", role=role)
            began = time.perf_counter()
            store.commit([draft], key=f"bench-{turn:08}")
            os.write(file, LINE)
            os.fdatasync(file)
            for _ in range(3):
                hub.get("/healthz").raise_for_status()
            return (time.perf_counter() - began) * 1000

        yield once
    os.close(file)
    store.close()


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
            keyboard.wait("its question", lambda text: "y or esc?" in text, 30)  # v2 was left by R
            keyboard.confirm()
            keyboard.wait("BACK ON v2", lambda text: "BACK ON v2" in text, 30)
            keyboard.press("\x1b")  # the panel
            keyboard.wait("the preview", lambda text: "MOVES" in text, 30)
            keyboard.press("\x1b")  # the last result
    return taken
