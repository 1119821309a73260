"""Seeds of the simulation. Each runs in a process of its own, where the world is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from tests.simulation.faults import Plan, draw
from tests.simulation.shrink import shrink

CHUNK = 100
CHUNKS = 5


def simulate(*arguments: str, status: int = 0) -> dict[str, Any]:
    """What `python -m tests.simulation --json` says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--json", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_invariant_holds(chunk: int) -> None:
    found = simulate("--seeds", f"{chunk * CHUNK}:{(chunk + 1) * CHUNK}")
    assert found["seeds"] == CHUNK
    assert found["counts"]["moves acknowledged"] > CHUNK
    assert found["counts"]["answers"] > 100 * CHUNK


def test_a_seed_is_the_same_run_every_time() -> None:
    alone, after_others = simulate("--seeds", "3:5"), simulate("--seeds", "0:5")
    assert alone["digests"]["4"] == after_others["digests"]["4"]
    assert alone["digests"]["3"] == after_others["digests"]["3"] != alone["digests"]["4"]


FIRST_SEEDS = {
    "two-leases": 2,
    "fleet-fence": 5,
    "early-acknowledgement": 14,
    "ignored-gap": 72,
    "switch-fence": 357,
    "forgotten-tombstone": 464,
    "widening-moves-people": 0,
    "kept-candidate": 0,
    "endless-lease": 53,
    "overlooked-witness": 406,
    "everything-held": 406,
    "believed-hello": 59,
    "unread-hello": 66,
    "left-count": 20,
}
"""Planted mistake -> the first seed that notices it. A change of the product may move it: the next ones are tried."""


@pytest.mark.parametrize("mutation", FIRST_SEEDS)
def test_a_planted_mistake_is_found(mutation: str) -> None:
    first = FIRST_SEEDS[mutation]
    found = simulate("--seeds", f"{first}:{first + 500}", "--stop", "--mutation", mutation, status=1)
    assert len(found["found"]) == 1


def test_no_mistake_is_left_out() -> None:
    assert set(FIRST_SEEDS) == set(simulate("--seeds", "0:0")["mutations"])


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
