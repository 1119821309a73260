"""Makes a failing plan smaller: fewer faults, moves, nodes and seconds, for as long as it still fails alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.simulation.faults import Plan

TRIES = 200


def kind_of(violation: str) -> str:
    """The invariant that a violation is of."""
    return violation.partition(":")[0]


def shrink(plan: Plan, fails: Callable[[Plan], str], *, tries: int = TRIES) -> Plan:
    """The smallest plan found that breaks the same invariant. `fails` runs a plan and returns its violation."""
    wanted = kind_of(fails(plan))
    smaller = True
    while smaller and tries:
        smaller = False
        for candidate in _smaller(plan):
            tries -= 1
            if kind_of(fails(candidate)) == wanted:
                plan, smaller = candidate, True
                break
            if not tries:
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans that are one step smaller, the largest steps first."""
    half = len(plan.faults) // 2
    if half:
        yield replace(plan, faults=plan.faults[:half])
        yield replace(plan, faults=plan.faults[half:])
    for number in range(len(plan.faults)):
        yield replace(plan, faults=plan.faults[:number] + plan.faults[number + 1 :])
    if plan.nodes > 1 and all(fault.node < plan.nodes - 1 for fault in plan.faults):
        yield replace(plan, nodes=plan.nodes - 1)
    for moves in (0, plan.moves // 2, plan.moves - 1):
        if moves < plan.moves:
            yield replace(plan, moves=moves)
    last = max((fault.at for fault in plan.faults), default=0.0)
    if plan.seconds > last + 2:
        yield replace(plan, seconds=last + 2)
