"""The results of the benchmark as documents: docs/benchmarks.json, and what is written from it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.rows import Row, figure

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "benchmarks.json"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"

BEGIN = "<!-- bench: written by make bench -->"
END = "<!-- /bench -->"

IN_README = (
    "R to flipped, 1 replica, prior resident: p50",
    "R to flipped, 1 replica, prior resident: p99",
    "floor: store commit + fdatasync + 3 round trips: p99",
    "key byte in the pty to FLIPPED in the emulator: p50",
    "R to flipped on 1,000 simulated agents: p99",
    "a rewind of 1,000 tenants",
    "answers by the left release after the acknowledgement",
    "requests that failed meanwhile",
    "streams that did not end",
    "flipped to proven under that load",
    "peer: vLLM",
    "against unload + load",
    "peer: MLflow",
    "router overhead, p50",
    "router overhead, p99",
    "router, requests per second",
    "router overhead against LiteLLM's",
    "agent daemon",
    "console, 10,000 tenants: first paint",
    "console, 10,000 tenants: key to paint, p95",
    "console, 10,000 tenants: bytes for a cursor key",
    "console, 10,000 tenants: at rest, of a core",
    "console, 10,000 tenants: resident memory after",
    "peer: a Textual DataTable, 10,000 tenants: key to paint, p95",
    "hub, 5,000 nodes reporting every 5 s: a row, p99",
    "hub, 5,000 nodes reporting every 5 s: resident",
    "hub killed and started again",
)
"""Beginnings of the rows that the README shows, in its order."""


@dataclass(frozen=True)
class Section:
    """One part of a run: when, where and how it was measured, and its rows."""

    title: str
    method: str
    date: str
    machine: str
    seconds: float
    failed: str
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, title: str, method: str, rows: Sequence[Row], failed: str, seconds: float) -> Section:
        date = time.strftime("%Y-%m-%d %H:%MZ", time.gmtime())
        return cls(title, method.strip(), date, machine(), round(seconds, 1), failed, tuple(rows))


def machine() -> str:
    """What the figures depend on."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cores} core{'s' * (cores > 1)} of {platform.machine()}, {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, no GPU used"
    )


def write(sections: Mapping[str, Section], *, order: Sequence[str]) -> None:
    """Put these sections in the place of older ones, and write every document anew."""
    kept = read()
    merged = {name: sections.get(name) or kept[name] for name in order if name in sections or name in kept}
    body = {name: asdict(section) for name, section in merged.items()}
    RESULTS.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    DOCUMENT.write_text(document(merged), encoding="utf-8")
    README.write_text(with_table(README.read_text(encoding="utf-8"), merged), encoding="utf-8")


def read() -> dict[str, Section]:
    """The results file; nothing where there is none."""
    if not RESULTS.exists():
        return {}
    body = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {
        name: Section(**{**section, "rows": tuple(Row(**row) for row in section["rows"])})
        for name, section in body.items()
    }


# ---- docs/benchmarks.md ------------------------------------------------------------------------------------------

_HEAD = """# Benchmarks

Written by `make bench`; not by hand. Every budget of the design that can be measured today stands here beside a floor
(what the same machine takes for what cannot be left out) or a peer (what people use today, from PyPI, in its own
environment), measured in the same run. A budget that was not kept says **MISSED**. `n` is the number of
measurements: where it is small, the figure is a look and not a result.

`make bench` takes about half an hour on two free cores, after installing the peers (two gigabytes in the cache
folder); `make bench-console` measures the console alone, at three sizes, with eight hours of updates. Some parts alone:
`PYTHONPATH=.:examples .venv/bin/python -m tests.bench --only flip,router`.
"""


def document(sections: Mapping[str, Section]) -> str:
    parts = [_HEAD]
    for section in sections.values():
        parts.append(f"## {section.title}\n\n{section.method}\n\n*{section.date}; {section.machine}*\n")
        if section.failed:
            parts.append(f"**FAILED**: {section.failed}\n")
        if section.rows:
            lines = ["| what | measured | budget | n | method |", "|---|---|---|---|---|"]
            lines += [
                f"| {row.what} | {_measured(row)} | {_budget(row)} | {row.n:,} | {row.how} |" for row in section.rows
            ]
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _measured(row: Row) -> str:
    return f"{figure(row.value)} {row.unit}" + (" **MISSED**" if row.missed else "")


def _budget(row: Row) -> str:
    if row.budget is None:
        return ""
    return f"{'≥' if row.higher else '≤'} {row.budget:g}" + (", not waivable" if row.unwaivable else "")


# ---- the README ----------------------------------------------------------------------------------------------------


def table(sections: Mapping[str, Section]) -> str:
    """The README's table, with what was measured where."""
    rows = [row for section in sections.values() for row in section.rows]
    chosen = [row for beginning in IN_README for row in rows if row.what.startswith(beginning)]
    lines = ["| what | measured | budget | n |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {_measured(row)} | {_budget(row)} | {row.n:,} |" for row in chosen]
    return "\n".join(lines)


def with_table(readme: str, sections: Mapping[str, Section]) -> str:
    """The README with its table written anew.

    Raises:
        ValueError: it lacks a marker.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table(sections)}\n\n{END}{after}"
