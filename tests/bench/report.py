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
    (
        "R to flipped, 1 replica, prior resident: p50",
        "`R` on one host: from the request at the hub until the host's router sends nothing to the bad release any "
        "more (median)",
    ),
    (
        "answers by the left release after the acknowledgement",
        "answers by the bad release after its router had said so, under load, in 1,030 moves",
    ),
    ("router, added: p50", "what the router adds to a request (median)"),
    (
        "hub killed and started again: all 5,000 nodes back",
        "a killed hub is started again: until all of 5,000 simulated hosts are linked to it",
    ),
    (
        "peer: vLLM 0.32.0, unload + load, rank 64, all linear: p50",
        "for comparison, without Loradeck: vLLM unloads the bad adapter and loads the other one (median)",
    ),
)
"""The rows that the README shows, in its order: how each begins, and what the README calls it."""


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
    def of(cls, title: str, method: str, rows: Sequence[Row], failed: str, seconds: float, before: str) -> Section:
        """A part that has just been measured. `before`: the machine, as it was when that began."""
        date = time.strftime("%Y-%m-%d %H:%MZ", time.gmtime())
        return cls(title, method.strip(), date, before, round(seconds, 1), failed, tuple(rows))


def machine() -> str:
    """What the figures depend on, with the load of the last minute: what else the machine does."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cores} core{'s' * (cores > 1)} of {platform.machine()}, {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, no GPU used, load {os.getloadavg()[0]:.1f} before"
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

The *kind* of a row says what its figure depends on. Two machines of one kind differed by a factor of two, so a time, a
rate or a share of a core is a **note** and has no budget; the writer of this page refuses one. A budget is on

- a **ratio to a floor** or a **ratio to a peer** of the same run, measured in turns where both can be;
- a **ratio to a setting**: a time that passes because a lease, a report or a pause is as long as it is set, in
  multiples of that, which a slow machine hardly changes;
- a **count**, such as requests that failed;
- a **size**: the same objects take as much memory, and the same screen as many bytes, on a fast machine and on a slow
  one;
- a **simulated time**, of which there is none on this page: seconds of generated traffic, as in
  [detection](detection.md#figures), are the same on every machine.

How each budget became a ratio is in [decision 109](decisions/0109-budgets-are-ratios.md).

`make bench` takes about half an hour on two free cores, after installing the peers (two gigabytes in the cache
folder); `make bench-console` measures the console alone, at three sizes, with eight hours of updates. Some parts alone:
`make bench ARGS="--only flip,router"`.
"""


_MEMORY = """## What an agent's memory is

The budget of 50 MB is missed by a node that has joined (56 MB on 29 November 2026, the daemon alone). Of that the
interpreter takes 9 MB, asyncio with TLS 11, pydantic 16, websockets, and PyNaCl 2, the types that travel 4, and
the agent's own modules 5; a link over TLS, threads and what it holds of its node take 6 to 8. It was 68 MB while the
daemon made its key itself: the package for that takes 12 MB and is now imported by a child process that ends. One
allocation arena for all threads would save 0.3 MB, schemas built when they are first used 1.
"""

_REWIND = """## What a rewind of a thousand tenants costs

The budget (3 times one commit of 1,000 events, two frames and two fdatasyncs) is missed, and cannot be met with one
event, one signed entry and two acknowledgements for each tenant in Python. On 2026-11-27, on two cores that others used
as well (load 9 to 13), a rewind took 0.9 to 2.1 s against floors of 0.06 to 0.14 s (medians of 5). In three pairs with
the code of before that day, the fastest of 5 rewinds took 0.86 and 0.92 s (before, after), 1.48 and 1.25 s, 1.60 and
1.31 s, and the hub's processor time for each tenant was 416 and 396, 502 and 456, 582 and 524 microseconds.

The hub's parts without sockets and reports, in one process, processor time, the smallest of 8 rewinds:

| part | ms for 1,000 tenants |
|---|---|
| the plan, compared with the one that was shown, and 1,000 drafts | 14 |
| one transaction in the store's thread: events sealed, inserted with four indexes, pointers written | 59 |
| events folded, table entries computed | 39 |
| entries written as text | 25 |
| entries signed (Ed25519, 24 microseconds each) | 26 |
| progress and health of the pointers that moved, after the frames were written | 10 |
| 2,000 acknowledgements read and counted | 46 |
| pointers checked when the last one has come, and the answer | 20 |
| everything else (HTTP, waits, the thread's hand-over) | 60 |

To it come two reports a second with the counters of 1,000 tenants, 20 ms each or more, and on each node 45 ms or more
for verifying 1,000 signatures, and as long for reading the entries. What was tried and what was left out is in
[decision 28](decisions/0028-a-thousand-at-once.md).
"""
"""Profiled by hand; `make bench` measures the whole."""


_GATEWAY = """## What a gateway's requests per second of its CPU depend on

The same gateway did 5,701 requests per second of its CPU on one machine of two cores (30 November 2026, 00:20Z), where
Envoy did 30,380 and vllm-router 28,235, and 3,385 on another one (21:14Z), where they did 24,000 and 14,458: a request
cost the gateway 5.0 times as much CPU as vllm-router on the one, and 4.3 times on the other. By samples of its stacks
27 % of its time goes to aiohttp's client, 16 % to writing answers, 14 % to the loop with its reads, 5 % to reading what
is asked and 4 % to choosing a node; of its CPU time a fifth is the kernel's.
Sending a request's head and body to a node in one write in place of two was tried, and made no difference: in turns
3,343, 3,267, 3,038, 3,458 requests per second of its CPU without, and 3,276, 3,191, 3,152, 3,340 with it.
"""
"""Sampled and tried by hand; `make bench` measures the whole."""


_DEMO = """## The demo

What `make demo` printed on 2026-12-01, at commit c03f61d1, on two shared cores without a GPU and with next to nothing
else to do: SmolLM2-135M with adapters trained on the spot, two nodes and a gateway, both engines busy with requests all
the time. It prints this table anew on your machine.

| what | median | worst | n |
|---|---|---|---|
| commit to flipped on both routers | 12.5 ms | 21.4 ms | 20 moves |
| commit to proven on both replicas (embedded engine, CPU, behind a burst of requests) | 1.8 s | 3.1 s | 20 moves |
| requests answered by the left release after an acknowledgement, decided by the answer's tokens | 0 | | 642 |
| requests of any tenant that failed, from the first promote to the end | 0 | | 1,246 |
| users who met the bad release in half of 56, until a guard took it back | 12 | | 56 |
| a drained node's tenant of a pool: proven and answered on another node | 3.4 s | | 1 |
| key `R` in a real console to FLIPPED 2/2 on the terminal | 95 ms | | 1 |

The run took 210 s (budget 300). Ten in a row earlier that day, at commit acc9a240, held all 17 claims each: of 220
moves each flipped and was proven on both replicas, 0 of 7,325 answers came from the left release after an
acknowledgement, and 0 of 15,124 requests failed. The first five, with next to nothing else to do, took 274 to 307 s;
the other five, with a core kept busy by something else and others at work, 422 to 661 s. In each of the ten one move
had to be made again, in eight of them the first promote: the routers ended the connections that had been opened for
its burst. That is mended since, and trainings are in a better order.
"""
"""From a run of the demo, which `make bench` does not repeat."""


def document(sections: Mapping[str, Section]) -> str:
    """docs/benchmarks.md: every row of every part, what memory and a rewind are made of, and what the demo printed."""
    parts = [_HEAD]
    for section in sections.values():
        parts.append(f"## {section.title}\n\n{section.method}\n\n*{section.date}; {section.machine}*\n")
        if section.failed:
            parts.append(f"**FAILED**: {section.failed}\n")
        if section.rows:
            lines = ["| what | measured | budget | kind | n | method |", "|---|---|---|---|---|---|"]
            lines += [
                f"| {row.what} | {_measured(row)} | {_budget(row)}{_waiver(row)} | {row.kind} | {row.n:,} | {row.how} |"
                for row in section.rows
            ]
            parts.append("\n".join(lines) + "\n")
    parts += [_MEMORY, _REWIND, _GATEWAY, _DEMO]
    return "\n".join(parts)


def _measured(row: Row) -> str:
    return f"{figure(row.value)} {row.unit}" + (" **MISSED**" if row.missed else "")


def _budget(row: Row) -> str:
    return "" if row.budget is None else f"{'≥' if row.higher else '≤'} {row.budget:g}"


def _waiver(row: Row) -> str:
    return ", not waivable" if row.unwaivable else ""


# ---- the README ----------------------------------------------------------------------------------------------------


def table(sections: Mapping[str, Section]) -> str:
    """The README's table: few rows, in words that need no other page."""
    rows = [row for section in sections.values() for row in section.rows]
    chosen = [(row, words) for beginning, words in IN_README for row in rows if row.what.startswith(beginning)]
    lines = ["| what | measured | budget | n |", "|---|---|---|---|"]
    lines += [f"| {words} | {_measured(row)} | {_budget(row).partition(',')[0]} | {row.n:,} |" for row, words in chosen]
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
