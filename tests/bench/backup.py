"""A backup of a database of 1 GB by a running hub, and R on one node meanwhile.

The database is filled with lines of the audit trail, whose size alone counts here. R is a rollback to its answer
`flipped`, and is undone, before the backup and while it is made.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path

from tests.bench.flip import WARM, back_and_forth
from tests.bench.rows import Row, quantile
from tests.fleets.processes.fleet import fleet_at, lay, make_material

from incident.fleet import Fleet
from loradeck.client.api import HubApi
from loradeck.client.config import Context

BYTES = 1_000_000_000
LINE = 4000
BEFORE = 100


def measure(*, size: int = BYTES, before: int = BEFORE) -> list[Row]:
    """About three minutes on two free cores; takes 2.2 times the size on the disk of temporary files."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        material = make_material(Path(folder))
        with fleet_at(material.base, names=("gpu-01",)) as fleet:
            lay(fleet, material)
            fleet.stop_hub()
            _fill(fleet.data / "hub.db", size)
            fleet.start_hub()
            fleet.wait_until_up()
            quiet, busy, seconds, made = asyncio.run(_backup(fleet, before))
    named = f"{made / 1e9:.2f} GB"
    return [
        Row(f"backup of {named} by a running hub", seconds, "s", 1),
        Row("R to flipped before it: p99", quantile(quiet, 99), "ms", len(quiet)),
        Row("R to flipped while it is made: p50", quantile(busy, 50), "ms", len(busy)),
        Row("R to flipped while it is made: p99", quantile(busy, 99), "ms", len(busy)),
    ]


def _fill(path: Path, size: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    first = (connection.execute("SELECT max(seq) FROM audit").fetchone()[0] or 0) + 1
    body = "x" * (LINE - 100)
    lines = ((first + number, f"{number:09}{body}") for number in range(size // LINE))
    connection.executemany("INSERT INTO audit VALUES (?, ?)", lines)
    connection.execute("COMMIT")
    connection.close()


async def _backup(fleet: Fleet, before: int) -> tuple[list[float], list[float], float, int]:
    """Milliseconds of R before and during a backup, the backup's seconds, and its bytes."""
    context = Context(name="bench", socket=fleet.socket)
    async with HubApi.to(context) as api, HubApi.to(context) as other:
        for _ in range(WARM):
            await back_and_forth(api)
        quiet = [await back_and_forth(api) for _ in range(before)]
        busy, began = [], time.perf_counter()
        making = asyncio.create_task(other.backup(str(fleet.root / "backup.db")))
        while not making.done():
            busy.append(await back_and_forth(api))
        seconds = time.perf_counter() - began
        return quiet, busy, seconds, (await making).size
