"""The example recipes of the slower methods on SmolLM2-135M: each improves on items that it did not see."""

from __future__ import annotations

from pathlib import Path

import pytest

from base_model import ensure_base
from loradeck.artifacts import base_manifest
from recipes import measure

SECONDS = 180
"""Most processor time of a recipe, imports included."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["kto", "grpo", "distilled"])
def test_a_recipe_improves_on_held_out_items_within_three_minutes(root: Path, name: str) -> None:
    base = ensure_base()
    result = measure.run(name, base, base_manifest(base, "-", "-").digest, root, threads=1)
    print(result)  # the figures are what one comes for
    assert result.after.quality >= result.before.quality + 0.15
    assert result.seconds < SECONDS
