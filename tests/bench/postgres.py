"""R to flipped with the hub's database on SQLite, on one PostgreSQL server, and on one with two synchronous standbys.

Three fleets of one node each make the same moves in turn, and after each move the floor of its database is measured:
one commit of a store on it, one append + fdatasync, and three loopback round trips. All servers are on this machine and
share its disk, so a standby costs its processor and its fdatasync, and no network.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from tests.bench.flip import WARM, back_and_forth, floor_of
from tests.bench.rows import Row, quantile
from tests.fakes.postgres_server import PostgresServer, replicated, servers
from tests.fleets.processes.fleet import fleet_at, lay, make_material

from incident.fleet import Fleet
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.store.postgres import PostgresStore
from loradeck.store.sql_log import Store
from loradeck.store.sqlite import SqliteStore

MOVES = 200
KINDS = ("SQLite", "PostgreSQL", "PostgreSQL, any one of two standbys")


def measure(*, moves: int = MOVES) -> list[Row]:
    """Three hubs, three nodes and four servers; about four minutes on two free cores."""
    with ExitStack() as stack:
        material = make_material(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ld"))))
        (alone,) = stack.enter_context(servers())
        primary = stack.enter_context(replicated())[0]
        alone.start()
        urls = [None, alone.url, primary.url]
        options = [() if url is None else ("--store", url) for url in urls]
        fleets = [stack.enter_context(fleet_at(material.base, names=("gpu-01",), hub_options=some)) for some in options]
        for fleet in fleets:
            lay(fleet, material)
        stores = [SqliteStore(fleets[0].root / "floor" / "hub.db"), *(_another(one) for one in (alone, primary))]
        taken, floors = asyncio.run(_in_turn(fleets, stores, moves))
    rows = []
    for number, kind in enumerate(KINDS):
        for percent in (50, 99):
            flip, floor = quantile(taken[number], percent), quantile(floors[number], percent)
            budget = 3.0 if number == 2 and percent == 99 else None
            rows += [
                Row(f"R to flipped, {kind}: p{percent}", flip, "ms", moves, how="in turn with the others"),
                Row(f"floor, {kind}: p{percent}", floor, "ms", moves),
                Row(
                    f"R to flipped against that floor, {kind}: p{percent}",
                    flip / floor,
                    "x",
                    moves,
                    budget,
                    reference="floor",
                ),
            ]
    return rows


def _another(server: PostgresServer) -> Store:
    """A store in a database of its own on a server."""
    server.execute("CREATE DATABASE floor")
    return PostgresStore(server.url.replace("/postgres?", "/floor?"))


async def _in_turn(
    fleets: Sequence[Fleet], stores: Sequence[Store], moves: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Milliseconds of each fleet's moves, and of the floors of its store; who goes first changes with each turn."""
    taken: list[list[float]] = [[] for _ in fleets]
    bare: list[list[float]] = [[] for _ in fleets]
    async with AsyncExitStack() as stack:
        apis, floors = [], []
        for fleet, store in zip(fleets, stores, strict=True):
            apis.append(await stack.enter_async_context(HubApi.to(Context(name="bench", socket=fleet.socket))))
            floors.append(stack.enter_context(floor_of(fleet, store)))
        for turn in range(moves + WARM):
            for step in range(len(fleets)):
                which = (turn + step) % len(fleets)
                ms, below = await back_and_forth(apis[which]), floors[which]()
                if turn >= WARM:
                    taken[which].append(ms)
                    bare[which].append(below)
    return taken, bare
