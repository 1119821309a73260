"""Seeds of the simulation: every invariant holds, every rule is run. They run in processes of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.simulation.faults import Plan, draw
from tests.simulation.in_a_process import simulate, simulate_beside
from tests.simulation.long_run import PAGE, RECORD, table
from tests.simulation.shrink import shrink

CHUNK = 120
CHUNKS = 2

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"`([\w.]+)`")


@pytest.fixture(scope="module")
def chunks() -> list[dict[str, Any]]:
    """What was found in each chunk. They run beside each other."""
    return simulate_beside(
        [("--functions", "--seeds", f"{chunk * CHUNK}:{(chunk + 1) * CHUNK}") for chunk in range(CHUNKS)]
    )


@pytest.mark.timeout(600)  # all seeds are run by its fixture, on cores that others may use too
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_invariant_holds(chunk: int, chunks: list[dict[str, Any]]) -> None:
    found = chunks[chunk]
    assert found["found"] == {}
    assert found["seeds"] == CHUNK
    assert found["counts"]["moves acknowledged"] > CHUNK
    assert found["counts"]["answers"] > 100 * CHUNK


def test_candidates_are_given_and_guards_act_in_them(chunks: list[dict[str, Any]]) -> None:
    for what in ("answers by candidates", "answers that a shadow may be asked", "guard: hold", "guard: rollback"):
        assert sum(found["counts"].get(what, 0) for found in chunks), what


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


@pytest.mark.parametrize(("functions", "users", "tests"), _rows())
def test_each_function_of_a_rule_is_used_tested_and_run_as_the_protocol_says(
    functions: list[str], users: list[str], tests: list[str], chunks: list[dict[str, Any]]
) -> None:
    for name in functions:
        module, _, function = name.rpartition(".")
        assert re.search(rf"^def {function}\(", _source(f"loradeck.rules.{module}"), re.MULTILINE)
        assert any(re.search(rf"\b{function}\(", _source(user)) for user in users)
        assert any(re.search(rf"\b{function}\(", _source(f"tests.unit.rules.{test}")) for test in tests)
        assert any(name in found["functions"] for found in chunks), f"no seed runs {name}"


def test_a_seed_is_the_same_run_every_time(chunks: list[dict[str, Any]]) -> None:
    alone, after_others = simulate("--seeds", "24:30")["digests"], chunks[0]["digests"]
    assert alone == {seed: digest for seed, digest in after_others.items() if seed in alone}
    assert (len(alone), len(set(after_others.values()))) == (6, CHUNK)


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
