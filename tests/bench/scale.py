"""A hub with 5,000 nodes that report every 5 s, on one core: how long answers take, its memory, and a restart.

The nodes are `loradeck sim fleet` on the other core. Each sends heartbeats as agents do and reports with the figures
of a host and 8 GPUs; beside them the hub is asked for a row and for a move on two nodes, ten times a second in all.
"""

from __future__ import annotations

import asyncio
import os
import time

from tests.bench.fleet import Simulated, bare_server, simulated
from tests.bench.pairs import ratio_at
from tests.bench.rows import Row, cpu_s, quantile, rss_mb

from loradeck.client.api import HubApi
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import UndoRequest
from loradeck.schemas.replica_state import LINK_TTL_S
from loradeck.schemas.state import Preview
from loradeck.testing.simulated_fleet import ROUTE

NODES = 5000
TENANTS = 100
REPORT_S = 5.0
ASKED = 300
PACE_S = 0.1
BACK_S = 120.0

ROW, MOVE = 12.0, 13.0
"""The most that a row and R may take at p99, in multiples of the floor's."""

BACK = 6.0
"""The most of an agent's longest pauses until all nodes are back."""

LONGEST_PAUSE_S = LINK_TTL_S / 2
"""What `loradeck_agent.uplink.link` waits at most before it links again."""


def measure(*, nodes: int = NODES, tenants: int = TENANTS, asked: int = ASKED) -> list[Row]:
    """About four minutes on two free cores."""
    cores = sorted(os.sched_getaffinity(0))
    with simulated(nodes, tenants, report_s=REPORT_S, on=cores[:2] if len(cores) > 1 else ()) as fleet:
        hub = fleet.fleet.hub
        assert hub is not None
        before, began = cpu_s(hub.pid), time.monotonic()
        rows, moves, floor = asyncio.run(_ask(fleet, asked, tenants))
        core = (cpu_s(hub.pid) - before) / (time.monotonic() - began) * 100
        memory = rss_mb(hub.pid)
        back = _restart(fleet, nodes)
        hub = fleet.fleet.hub
        assert hub is not None
        after = rss_mb(hub.pid)
    named = f"hub, {nodes:,} nodes reporting every {REPORT_S:g} s"
    return [
        Row(f"{named}: a row, p50", quantile(rows, 50), "ms", len(rows), how="GET of one pointer over its socket"),
        Row(f"{named}: a row, p99", quantile(rows, 99), "ms", len(rows)),
        Row(f"{named}: R to flipped on 2 nodes, p50", quantile(moves, 50), "ms", len(moves)),
        Row(
            f"{named}: R to flipped on 2 nodes, p99",
            quantile(moves, 99),
            "ms",
            len(moves),
            how="a rollback or its undo, to the second node's acknowledgement",
        ),
        Row(
            "floor: 2 WebSockets told and answering beside that hub: p99",
            quantile(floor, 99),
            "ms",
            len(floor),
            how="from a bare server to a bare client in another process, in turn with the moves",
        ),
        ratio_at(99, f"{named}: a row against that floor", rows, floor, reference="floor", budget=ROW),
        ratio_at(
            99, f"{named}: R to flipped on 2 nodes against that floor", moves, floor, reference="floor", budget=MOVE
        ),
        Row(f"{named}: of its one core", core, "%", len(rows), how="CPU of the hub's process while it was asked"),
        Row(f"{named}: resident memory", memory, "MB", 1, 300.0),
        Row(
            f"hub killed and started again: all {nodes:,} nodes back",
            back,
            "s",
            1,
            how="from the new hub's start, with the agents' own jittered back-off",
        ),
        Row(
            f"hub killed and started again: all {nodes:,} nodes back, against its setting",
            back / LONGEST_PAUSE_S,
            "x",
            1,
            BACK,
            how=f"longest pause of an agent before it links again: {LONGEST_PAUSE_S:g} s",
            reference="setting",
        ),
        Row("hub after that restart: resident memory", after, "MB", 1, 300.0),
    ]


async def _ask(fleet: Simulated, asked: int, tenants: int) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of rows, of moves and of the floor, in turns, over the tenants."""
    rows: list[float] = []
    moves: list[float] = []
    bare: list[float] = []
    undo: UndoRequest | None = None
    tenant = ""
    async with fleet.api() as api, bare_server(2) as floor:
        for turn in range(asked):
            due = time.monotonic() + PACE_S
            if undo is None:
                tenant = f"sim-{turn // 2 % tenants + 1:04}"
            began = time.perf_counter()
            row = await api.row(tenant, ROUTE)
            rows.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            if undo is None:
                undo = await _back(api, tenant, row.preview)
            else:
                await api.send(tenant, ROUTE, undo, wait="flipped", timeout=10)
                undo = None
            moves.append((time.perf_counter() - began) * 1000)
            bare.append(await floor())
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    return rows, moves, bare


async def _back(api: HubApi, tenant: str, preview: Preview) -> UndoRequest:
    """R; what undoes it."""
    result = await api.send(
        tenant, ROUTE, rollback_request(preview, key=new_key(), reason="bench"), wait="flipped", timeout=10
    )
    assert result.reached in ("flipped", "proven"), result
    return UndoRequest(event=result.events[0].id, confirmed=True, idempotency_key=new_key())


def _restart(fleet: Simulated, nodes: int) -> float:
    """Seconds from the start of a new hub, after the old one was killed, until every node has linked again."""
    fleet.fleet.kill_hub()
    fleet.until("the nodes notice that the hub is gone", BACK_S, linked=0)
    began = time.monotonic()
    fleet.fleet.start_hub()
    fleet.until("all nodes are back", BACK_S, linked=nodes)
    return time.monotonic() - began
