"""A figure of the benchmark: what it is, how it was measured, what it must not pass."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.kinds import Kind, Reference, kind_of, may_have_budget


@dataclass(frozen=True)
class Row:
    """One figure.

    `budget`: None for a floor, a peer or a note; `higher`: whether more is better; `unwaivable`: a miss fails the run;
    `how`: the method in one sentence; `reference`: what a ratio is to.

    Raises:
        ValueError: it is of no kind, or of one that may have no budget, and has one.
    """

    what: str
    value: float
    unit: str
    n: int
    budget: float | None = None
    higher: bool = False
    unwaivable: bool = False
    how: str = ""
    reference: Reference | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not may_have_budget(self.kind):
            raise ValueError(
                f"{self.what}: a budget of {self.budget:g} {self.unit} means something else on each machine; "
                "give it to a ratio"
            )

    @property
    def kind(self) -> Kind:
        """What it depends on."""
        return kind_of(self.unit, self.reference)

    @property
    def missed(self) -> bool:
        if self.budget is None:
            return False
        return self.value < self.budget if self.higher else self.value > self.budget

    @property
    def limit(self) -> str:
        """The budget as it is printed; empty for a floor or a peer."""
        return "" if self.budget is None else f"{'>=' if self.higher else '<='} {self.budget:g}"

    def __str__(self) -> str:
        limit = f"  budget {self.limit}" if self.limit else ""
        missed = "  MISSED" if self.missed else ""
        return f"{self.what:<66} {figure(self.value):>10} {self.unit:<10} n={self.n}{limit}{missed}"


def figure(value: float) -> str:
    """Three digits that mean something, and whole numbers whole."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"


def quantile(values: Sequence[float], percent: int) -> float:
    """`percent` of the values are at most this, between 1 and 99."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, in the kernel too, to the nanosecond.

    Raises:
        OSError: there is no such process.
    """
    return time.clock_gettime(~pid << 3 | 2)  # the clock of another process, as clock_getcpuclockid() numbers it


def rss_mb(pid: int) -> float:
    """Memory of a process that is resident now, in MB of 10^6 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
