"""An assignment without the pauses in which a hub goes on with everything else."""

from __future__ import annotations

from collections.abc import Mapping

from loradeck.rules.serving.assignment import Assignment, Demand, assigning
from loradeck.schemas.ids import Name, PointerKey


def assign(demands: Mapping[PointerKey, Demand], capacity: Mapping[Name, float]) -> Assignment:
    """Assigns every route at once."""
    steps = assigning(demands, capacity)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: Assignment = done.value
            return found
