"""Seeds of the simulation: every invariant holds, every rule is run. They run in processes of their own."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.simulation.faults import Plan, draw
from tests.simulation.in_a_process import simulate, simulate_beside
from tests.simulation.long_run import PAGE, RECORD, table
from tests.simulation.shrink import shrink

PART = 80
PARTS = 3
"""The seeds are drawn by parts, and a part runs in two processes beside each other."""

RARE = (3, 20, 32, 43, 72, 88, 93, 113, 156, 165, 180)
"""Seeds whose plans together run every function of the table of rules, and in which guard rolls back, whichever part is
drawn beside them."""

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"`([\w.]+)`")


def _drawn_part(number: int) -> Any:
    """A part of the seeds, of which a run draws one and `make test-all` has all."""
    first = number * PART
    name = f"seeds {first} to {first + PART - 1}"
    return pytest.param(number, id=name, marks=pytest.mark.drawn(seconds=35, group=name))


@pytest.fixture(scope="module")
def chunks(request: pytest.FixtureRequest) -> dict[int, list[dict[str, Any]]]:
    """What was found in both halves of each part that runs here, by the part's number."""
    calls = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    parts = sorted({call.params["part"] for call in calls if call is not None and "part" in call.params})
    firsts = [part * PART + half * PART // 2 for part in parts for half in range(2)]
    runs = []
    for pair in range(0, len(firsts), 2):
        runs += simulate_beside(
            [("--functions", "--seeds", f"{first}:{first + PART // 2}") for first in firsts[pair : pair + 2]]
        )
    return {part: runs[2 * number : 2 * number + 2] for number, part in enumerate(parts)}


@pytest.fixture(scope="module")
def rare() -> dict[str, Any]:
    """What the seeds of `RARE` did, which run beside whichever part is drawn."""
    return simulate("--functions", "--seeds", ",".join(map(str, RARE)))


@pytest.fixture(scope="module")
def functions(chunks: dict[int, list[dict[str, Any]]], rare: dict[str, Any]) -> set[str]:
    """The functions that were run by the parts that run here and by `RARE`."""
    found = [run for runs in chunks.values() for run in runs]
    return {name for run in (*found, rare) for name in run["functions"]}


@pytest.mark.timeout(600)  # all seeds are run by its fixture, on cores that others may use too
@pytest.mark.parametrize("part", [_drawn_part(number) for number in range(PARTS)])
def test_every_invariant_holds_and_candidates_and_guards_act(
    part: int, chunks: dict[int, list[dict[str, Any]]], rare: dict[str, Any]
) -> None:
    counts: Counter[str] = Counter(rare["counts"])  # guard rolls back in few seeds, and in none of some parts
    for found in chunks[part]:
        assert found["found"] == {}
        assert found["seeds"] == PART // 2
        counts.update(found["counts"])
    assert rare["found"] == {}
    assert counts["moves acknowledged"] > PART
    assert counts["answers"] > 100 * PART
    for what in ("answers by candidates", "answers that a shadow may be asked", "guard: hold", "guard: rollback"):
        assert counts[what], what


def _rows() -> list[tuple[list[str], list[str], list[str]]]:
    """The table of rules in docs/protocol.md: of each row the functions, the modules that use them, and their tests."""
    _, _, after = (ROOT / "docs/protocol.md").read_text().partition("| DESIGN | rule | functions |")
    rows = [line.split("|") for line in after.partition("\n\n")[0].splitlines()[2:]]
    return [(NAME.findall(row[3]), NAME.findall(row[4]), NAME.findall(row[5])) for row in rows]


def _source(module: str) -> str:
    path = module.replace(".", "/") + ".py"
    return next(
        folder / path for folder in (ROOT / "console", ROOT / "agents", ROOT) if (folder / path).exists()
    ).read_text()


@pytest.mark.parametrize(("names", "users", "tests"), _rows())
def test_each_function_of_a_rule_is_used_tested_and_run_as_the_protocol_says(
    names: list[str], users: list[str], tests: list[str], functions: set[str]
) -> None:
    for name in names:
        module, _, function = name.rpartition(".")
        assert re.search(rf"^def {function}\(", _source(f"loradeck.rules.{module}"), re.MULTILINE)
        assert any(re.search(rf"\b{function}\(", _source(user)) for user in users)
        assert any(re.search(rf"\b{function}\(", _source(f"tests.unit.rules.{test}")) for test in tests)
        assert name in functions, f"no seed runs {name}"


def test_a_seed_is_the_same_run_every_time_whatever_ran_before_it() -> None:
    alone, after_others = simulate_beside([("--seeds", "24:27"), ("--seeds", "20:27")])
    assert alone["digests"] == {seed: after_others["digests"][seed] for seed in ("24", "25", "26")}
    assert len(set(after_others["digests"].values())) == 7


def test_the_long_run_is_recorded_seed_for_seed_and_a_slice_of_it_ends_as_it_says() -> None:
    parts = json.loads(RECORD.read_text())["parts"]
    assert [part["first"] for part in parts] == [0, *(part["last"] for part in parts[:-1])]
    assert table({"parts": parts}) in PAGE.read_text()
    found = {seed for part in parts for seed in part["found"]}
    slice_ = {str((part["first"] + part["last"]) // 2) for part in parts[:: max(1, len(parts) // 6)]}
    run = simulate("--seeds", ",".join(sorted(slice_)), status=int(bool(slice_ & found)))
    assert set(run["digests"]) == slice_
    assert set(run["found"]) == slice_ & found


def test_a_failing_plan_is_made_smaller() -> None:
    plan = Plan(seed=1, nodes=3, moves=9, seconds=20, faults=draw(14).faults * 2)
    needed = {plan.faults[1].kind, plan.faults[2].kind}

    def fails(candidate: Plan) -> str:
        broken = needed <= {fault.kind for fault in candidate.faults} and candidate.moves >= 2
        return "an invariant: in other words each time" if broken else ""

    smaller = shrink(plan, fails)
    assert {fault.kind for fault in smaller.faults} == needed
    assert len(smaller.faults) == len(needed)
    assert smaller.moves == 2
    assert smaller.seconds < 20
