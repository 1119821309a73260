"""Planted mistakes in the product, each noticed by the simulation within a few seeds of its plans."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.simulation.in_a_process import simulate
from tests.simulation.mutations import MUTATIONS

SEEDS = "0:200"
PAGE = Path(__file__).parents[2] / "docs/simulation.md"


@pytest.fixture(scope="module")
def noticed() -> dict[str, Any]:
    """Every planted mistake -> the seed that notices it, and how. One process runs them all, the known seeds first."""
    found: dict[str, Any] = simulate("--mutations", "--seeds", SEEDS)["found"]
    return found


def test_the_page_names_each_with_the_seed_that_notices_it() -> None:
    named = re.findall(r"^\| `([\w-]+)`: .* \| (\d+) \| [^|]*\|$", PAGE.read_text(), re.MULTILINE)
    assert {name: int(seed) for name, seed in named} == {name: mistake.seed for name, mistake in MUTATIONS.items()}


@pytest.mark.drawn(seconds=60)
@pytest.mark.timeout(600)  # its fixture runs all of them, on cores that others may use too
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_planted_mistake_is_found(mutation: str, noticed: dict[str, Any]) -> None:
    assert noticed.get(mutation), f"none of the seeds {SEEDS} of its plans notices it"
