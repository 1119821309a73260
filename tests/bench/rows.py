"""A figure of the benchmark: what it is, how it was measured, what it must not pass."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure.

    `budget`: None for a floor or a peer; `higher`: whether more is better; `unwaivable`: a miss fails the run;
    `how`: the method in one sentence.
    """

    what: str
    value: float
    unit: str
    n: int
    budget: float | None = None
    higher: bool = False
    unwaivable: bool = False
    how: str = ""

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
    """Seconds of CPU a process has used, in the kernel too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Memory of a process that is resident now, in MB of 10^6 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
