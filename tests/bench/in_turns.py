"""What proxies add to a request: the same client asks the engine alone and through each of them, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.http_load import Where, load
from tests.bench.kinds import Reference
from tests.bench.pairs import ratio_of_medians
from tests.bench.proxies import Proxy
from tests.bench.rows import Row, cpu_s, quantile

TURNS = 20
CALLERS = 16
WARM_N = 200
FEWEST = 4
"""Requests of a turn, of which there is a median."""


@dataclass
class Way:
    """One way to the engine: what its turns took. Latencies are in milliseconds."""

    name: str
    turns: list[list[float]] = field(default_factory=list)
    """Latencies over one connection, of each turn."""
    many: list[float] = field(default_factory=list)
    """Latencies over `CALLERS` connections, of all turns."""
    many_s: float = 0.0
    """Seconds that these took."""
    of_cpu: list[float] = field(default_factory=list)
    """Requests per second of the proxy's CPU, of each turn with `CALLERS` connections."""

    @property
    def one(self) -> list[float]:
        """Latencies over one connection, of all turns."""
        return [latency for turn in self.turns for latency in turn]

    def at(self, percent: int) -> list[float]:
        """This percentile of each turn's latencies over one connection."""
        return [quantile(turn, percent) for turn in self.turns]

    def added(self, direct: Way) -> list[float]:
        """What it adds to asking directly, by the medians of each turn."""
        return [through - alone for through, alone in zip(self.at(50), direct.at(50), strict=True)]


async def ask_in_turns(
    direct: Where, proxies: Sequence[Proxy], one: int, many: int, *, apart: bool = False
) -> tuple[Way, list[Way]]:
    """The engine alone, and each proxy, in the order given; `TURNS` turns, in each of which another one comes first.

    Args:
        one: requests over one connection that each gets in all.
        many: requests over `CALLERS` connections; 0: there are none.
        apart: each request has a prompt of its own.
    """
    alone, ways = Way("engine alone"), [Way(proxy.name) for proxy in proxies]
    for where in (direct, *(proxy.where for proxy in proxies)):
        await load(where, 1, WARM_N, apart=apart)
    measured = list(zip(proxies, ways, strict=True))
    for turn in range(TURNS):
        first = turn % len(measured)
        turned = measured[first:] + measured[:first]
        await _one(alone, direct, max(FEWEST, one // TURNS), apart)
        for proxy, way in turned:
            await _one(way, proxy.where, max(FEWEST, round(one * proxy.share / TURNS)), apart)
        if many:
            await _many(alone, direct, many // TURNS)
            for proxy, way in turned:
                cpu, count = cpu_s(proxy.pid), max(CALLERS, round(many * proxy.share / TURNS))
                await _many(way, proxy.where, count)
                way.of_cpu.append(count / (cpu_s(proxy.pid) - cpu))
    return alone, ways


async def _one(way: Way, where: Where, count: int, apart: bool) -> None:
    way.turns.append((await load(where, 1, count, apart=apart))[0])


async def _many(way: Way, where: Where, count: int) -> None:
    latencies, seconds = await load(where, CALLERS, count)
    way.many += latencies
    way.many_s += seconds


def notes(name: str, way: Way, direct: Way, how: str = "") -> list[Row]:
    """A way's own figures, of the machine that it was measured on."""
    return [
        Row(f"{name}, added: p50", statistics.median(way.added(direct)), "ms", len(way.one), how=how),
        Row(f"{name}, added: p99", quantile(way.one, 99) - quantile(direct.one, 99), "ms", len(way.one)),
        Row(f"{name}, requests per second of its CPU", statistics.median(way.of_cpu), "requests/s", len(way.many)),
    ]


@dataclass(frozen=True)
class Budgets:
    """The most that a way may add at the median, and take at p99, and the least that its CPU must do, in multiples of
    another's; None: no budget.
    """

    added: float | None = None
    p99: float | None = None
    of_cpu: float | None = None


def compared(name: str, way: Way, other: Way, direct: Way, reference: Reference, budgets: Budgets) -> list[Row]:
    """The rows of one way against another."""
    against, how = f"{name} against {other.name}", f"medians of {TURNS} turns, asked in turns"
    return [
        ratio_of_medians(
            f"{against}: added to a request, p50",
            way.added(direct),
            other.added(direct),
            reference=reference,
            budget=budgets.added,
            how=how,
        ),
        ratio_of_medians(
            f"{against}: a request, p99",
            way.at(99),
            other.at(99),
            reference=reference,
            budget=budgets.p99,
        ),
        ratio_of_medians(
            f"{against}: requests per second of CPU",
            way.of_cpu,
            other.of_cpu,
            reference=reference,
            budget=budgets.of_cpu,
            higher=True,
        ),
    ]
