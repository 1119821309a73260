"""Planted mistakes in the product, each noticed by the simulation within a few seeds of its plans."""

from __future__ import annotations

from typing import Any

import pytest
from tests.simulation.in_a_process import simulate
from tests.simulation.mutations import MUTATIONS

SEEDS = "0:200"


@pytest.fixture(scope="module")
def noticed() -> dict[str, Any]:
    """Every planted mistake -> the first seed that notices it, and how. One process runs them all."""
    found: dict[str, Any] = simulate("--mutations", "--seeds", SEEDS)["found"]
    return found


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_planted_mistake_is_found(mutation: str, noticed: dict[str, Any]) -> None:
    assert noticed.get(mutation), f"none of the seeds {SEEDS} of its plans notices it"
