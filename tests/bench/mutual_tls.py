"""R to flipped over a link with mutual TLS, and over one without: the same moves in turn, on two fleets of one node."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.bench.flip import WARM, back_and_forth
from tests.bench.pairs import interval_of_median
from tests.bench.rows import Row, quantile
from tests.fleets.processes.fleet import fleet_at, lay, make_material

from incident.fleet import Fleet
from loradeck.client.api import HubApi
from loradeck.client.config import Context

PAIRS = 400


def measure(*, pairs: int = PAIRS) -> list[Row]:
    """Two hubs and two nodes; about two minutes on two free cores."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        material = make_material(Path(folder))
        with (
            fleet_at(material.base, names=("gpu-01",)) as joined,
            fleet_at(material.base, names=("gpu-01",), joins=False) as plain,
        ):
            for fleet in (joined, plain):
                lay(fleet, material)
            taken = asyncio.run(_in_turn(joined, plain, pairs))
    secure, bare = [pair[0] for pair in taken], [pair[1] for pair in taken]
    more = [first - second for first, second in taken]
    low, high = interval_of_median(more)
    how = "a rollback over the hub's socket, to its answer 'flipped'; an undo, proven, after each"
    return [
        Row("R to flipped, link with mutual TLS: p50", quantile(secure, 50), "ms", len(secure), how=how),
        Row("R to flipped, link with mutual TLS: p99", quantile(secure, 99), "ms", len(secure)),
        Row("R to flipped, link without TLS: p50", quantile(bare, 50), "ms", len(bare), how="in turn with the former"),
        Row("R to flipped, link without TLS: p99", quantile(bare, 99), "ms", len(bare)),
        Row(
            "what TLS adds: median of the pairs' differences",
            quantile(more, 50),
            "ms",
            len(more),
            how=f"95 % interval {low:+.2f} to {high:+.2f} ms",
        ),
    ]


async def _in_turn(joined: Fleet, plain: Fleet, pairs: int) -> list[tuple[float, float]]:
    """Milliseconds of each pair, with TLS and without; which of the two goes first alternates."""
    taken: list[tuple[float, float]] = []
    async with _api(joined) as first, _api(plain) as second:
        for turn in range(pairs + WARM):
            if turn % 2:
                secure, bare = await back_and_forth(first), await back_and_forth(second)
            else:
                bare, secure = await back_and_forth(second), await back_and_forth(first)
            if turn >= WARM:
                taken.append((secure, bare))
    return taken


def _api(fleet: Fleet) -> HubApi:
    return HubApi.to(Context(name="bench", socket=fleet.socket))
