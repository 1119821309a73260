"""Moves a second of one hub: sixteen clients move a tenant each back and forth, and wait for the commit alone.

Each tenant is on both of two simulated nodes, whose acknowledgements the hub handles meanwhile. The database is a
SQLite file, one PostgreSQL server, or one that waits for any one of two standbys; all on the hub's machine and disk.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

from tests.bench.fleet import Simulated, simulated
from tests.bench.rows import Row, quantile
from tests.fakes.postgres_server import replicated, servers

from loradeck.client.api import HubApi
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import UndoRequest
from loradeck.testing.simulated_fleet import ROUTE

CLIENTS = 16
SECONDS = 10.0
WARM_S = 1.0


def measure(*, seconds: float = SECONDS) -> list[Row]:
    """About two minutes on two free cores."""
    rows = []
    with ExitStack() as stack:
        (alone,) = stack.enter_context(servers())
        alone.start()
        primary = stack.enter_context(replicated())[0]
        for kind, url in (
            ("SQLite", None),
            ("PostgreSQL", alone.url),
            ("PostgreSQL, any one of two standbys", primary.url),
        ):
            options = () if url is None else ("--store", url)
            with simulated(2, CLIENTS, report_s=5.0, hub_options=options) as fleet:
                taken = asyncio.run(_all(fleet, seconds))
            rows.append(Row(f"moves of {CLIENTS} clients, {kind}", len(taken) / seconds, "moves/s", len(taken)))
            rows.append(Row(f"one of these, {kind}: p99", quantile(taken, 99), "ms", len(taken)))
    return rows


async def _all(fleet: Simulated, seconds: float) -> list[float]:
    """Milliseconds of each move of all clients that was acknowledged within the time."""
    taken: list[float] = []
    begins = time.perf_counter() + WARM_S
    clients = (_moves(fleet, f"sim-{number + 1:04}", begins, begins + seconds, taken) for number in range(CLIENTS))
    await asyncio.gather(*clients)
    return taken


async def _moves(fleet: Simulated, tenant: str, begins: float, ends: float, taken: list[float]) -> None:
    async with fleet.api() as api:
        while (began := time.perf_counter()) < ends:
            undo = await _back(api, tenant)
            middle = time.perf_counter()
            await api.send(tenant, ROUTE, undo)
            ended = time.perf_counter()
            taken += [(to - at) * 1000 for at, to in ((began, middle), (middle, ended)) if begins <= to < ends]


async def _back(api: HubApi, tenant: str) -> UndoRequest:
    """R, with the row that it needs; what undoes it."""
    row = await api.row(tenant, ROUTE)
    result = await api.send(tenant, ROUTE, rollback_request(row.preview, key=new_key(), reason="bench"))
    return UndoRequest(event=result.events[0].id, confirmed=True, idempotency_key=new_key())
