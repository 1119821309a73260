"""`make bench`: the budgets of the design, each beside its floor or peer, measured in this run; a miss says MISSED.

All parts together are written to docs/benchmarks.json, and from it docs/benchmarks.md and the README's table. Some
parts alone (`--only flip,router`) are printed, and written with `--write`; `--quick` does few rounds, for a look;
`--full` does what takes long as well (`make bench-console`).
Ends with 1 when something failed or must not be waived and was missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # before anything of transformers is imported

from tests.bench import (
    backup,
    console,
    daemon,
    density,
    evaluation,
    failover,
    fleet,
    flip,
    gateway,
    load,
    merging,
    mlflow_alias,
    moves,
    mutual_tls,
    noticing,
    placement,
    planner,
    postgres,
    precision,
    readiness,
    report,
    router,
    router_upgrade,
    scale,
    strangers,
    training,
    vllm_reload,
)
from tests.bench.rows import Row


@dataclass(frozen=True)
class Part:
    """A part of the benchmark. `quick` are the arguments for few rounds, `full` those for what takes long."""

    title: str
    measure: Callable[..., list[Row]]
    quick: dict[str, Any] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=dict)


PARTS = {
    "flip": Part("R on one node", flip.measure, {"moves": 20, "keys": 3}),
    "tls": Part("R with mutual TLS and without", mutual_tls.measure, {"pairs": 10}),
    "postgres": Part("R on SQLite and on PostgreSQL", postgres.measure, {"moves": 10}),
    "moves": Part("Moves a second", moves.measure, {"seconds": 2.0}),
    "failover": Part("Failover of the hub", failover.measure, {"rounds": 1}),
    "noticing": Part("What is dead or hangs", noticing.measure, {"rounds": 1}),
    "placement": Part("Placement of 10,000 tenants", placement.measure, {"tenants": 500, "nodes": 20}),
    "backup": Part("A backup while R is pressed", backup.measure, {"size": 50_000_000, "before": 20}),
    "load": Part("R under load", load.measure, {"flips": 40, "proofs": 5}),
    "readiness": Part("R by how near the prior is", readiness.measure),
    "fleet": Part("R on a thousand agents", fleet.measure, {"nodes": 100, "tenants": 50, "moves": 10, "rewinds": 2}),
    "mlflow": Part("Today: an alias and polling", mlflow_alias.measure, {"slow": 4, "fast": 20}),
    "vllm": Part("Today: unload and load through vLLM", vllm_reload.measure, {"rounds": 3}),
    "router": Part("Router", router.measure, {"share": 0.1}),
    "gateway": Part("Gateway", gateway.measure, {"share": 0.05, "rounds": 1}),
    "upgrade": Part("Router upgrade", router_upgrade.measure, {"rounds": 1}),
    "merge": Part("Merge", merging.measure, {"rounds": 1}),
    "train": Part("Train", training.measure, {"steps": 8, "kills": 1}),
    "precision": Part("Train in fp32, bf16 and nf4", precision.measure, {"steps": 3, "modes": ("fp32",)}),
    "evaluate": Part("Evaluation through the engine", evaluation.measure, {"rounds": 1}),
    "planner": Part("Memory for adapters", planner.measure, {"parallels": (1,), "faked": (8,)}),
    "daemon": Part("Agent", daemon.measure, {"watched_s": 10.0}),
    "console": Part(
        "Console",
        console.measure,
        {"sizes": (100,), "nodes": 20, "keys": 30, "rest_s": 5.0, "hours": 0.01},
        {"sizes": (100, 1_000, 10_000), "hours": 8},
    ),
    "strangers": Part("Strangers", strangers.measure, {"seconds": 3.0}),
    "density": Part(
        "A thousand tenants on one engine",
        density.measure,
        {"tenants": 60, "seconds": 10.0, "rounds": 1, "loads": 10},
    ),
    "scale": Part("Hub with 5,000 nodes", scale.measure, {"nodes": 200, "tenants": 20, "asked": 40}),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", metavar="PART,PART", help=f"of {', '.join(PARTS)}")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="few rounds; the figures say nothing")
    how.add_argument("--full", action="store_true", help="what takes long as well, where a part has such")
    parser.add_argument("--write", action="store_true", help="write the parts of --only into the documents")
    parser.add_argument("--tenants", type=int, help="of the part density, for a look at fewer than a thousand")
    parser.add_argument("--part", help="of the part density, one of vllm, resident, resolver, embedded, hint")
    given = parser.parse_args(argv)
    names = given.only.split(",") if given.only else [name for name in PARTS if name != "density"]
    if unknown := set(names) - PARTS.keys():
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    sections: dict[str, report.Section] = {}
    for name in names:
        part = PARTS[name]
        arguments = part.quick if given.quick else part.full if given.full else {}
        if name == "density" and given.tenants is not None:
            arguments = {**arguments, "tenants": given.tenants}
        if name == "density" and given.part is not None:
            arguments = {**arguments, "only": given.part}
        sections[name] = _run(part, arguments)
        if given.write or not (given.only or given.quick):
            report.write({name: sections[name]}, order=list(PARTS))  # at once: the next part may not come to its end
    missed = [row for section in sections.values() for row in section.rows if row.missed]
    failed = [section.title for section in sections.values() if section.failed]
    for row in missed:
        print(f"MISSED: {row.what}")
    for title in failed:
        print(f"FAILED: {title}")
    if not missed and not failed:
        print("every budget held")
    return 1 if failed or any(row.unwaivable for row in missed) else 0


def _run(part: Part, arguments: dict[str, Any]) -> report.Section:
    """A part that fails is told as failed, and the others go on."""
    print(f"-- {part.title}", flush=True)
    before, began, rows, failed = report.machine(), time.monotonic(), [], ""
    try:
        rows = part.measure(**arguments)
    except Exception as error:
        traceback.print_exc()
        failed = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    for row in rows:
        print(row, flush=True)
    took = time.monotonic() - began
    print(f"   ({took:.0f} s)\n", flush=True)
    method = sys.modules[part.measure.__module__].__doc__ or ""
    return report.Section.of(part.title, method, rows, failed, took, before)


if __name__ == "__main__":
    sys.exit(main())
