"""Seeds of the simulation. Each runs in a process of its own, where the world is replaced."""

from __future__ import annotations

import json

import pytest
from tests.simulation.faults import Plan, draw
from tests.simulation.in_a_process import simulate
from tests.simulation.long_run import PAGE, RECORD, table
from tests.simulation.shrink import shrink

CHUNK = 250
CHUNKS = 2


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_invariant_holds(chunk: int) -> None:
    found = simulate("--seeds", f"{chunk * CHUNK}:{(chunk + 1) * CHUNK}")
    assert found["found"] == {}
    assert found["seeds"] == CHUNK
    assert found["counts"]["moves acknowledged"] > CHUNK
    assert found["counts"]["answers"] > 100 * CHUNK


def test_a_seed_is_the_same_run_every_time() -> None:
    alone, after_others = simulate("--seeds", "24:30")["digests"], simulate("--seeds", "20:30")["digests"]
    assert alone == {seed: digest for seed, digest in after_others.items() if seed in alone}
    assert len(set(after_others.values())) == 10


def test_the_long_run_is_recorded_seed_for_seed_and_a_slice_of_it_ends_as_it_says() -> None:
    parts = json.loads(RECORD.read_text())["parts"]
    assert [part["first"] for part in parts] == [0, *(part["last"] for part in parts[:-1])]
    assert table({"parts": parts}) in PAGE.read_text()
    found = {seed for part in parts for seed in part["found"]}
    for part in parts[:: max(1, len(parts) // 6)]:
        seed = (part["first"] + part["last"]) // 2
        run = simulate("--seed", str(seed), status=int(str(seed) in found))
        assert set(run["found"]) == {str(seed)} & found


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
