"""A slice of the table of example recipes (docs/training.md, `make recipes`), recomputed on SmolLM2-135M."""

from __future__ import annotations

from pathlib import Path

import pytest

from base_model import ensure_base
from loradeck.artifacts import base_manifest
from recipes import measure

pytestmark = pytest.mark.drawn(seconds=60)


@pytest.mark.timeout(900)
def test_a_recipe_improves_on_held_out_items_that_it_did_not_see(tmp_path: Path) -> None:
    base = ensure_base()
    result = measure.run("kto", base, base_manifest(base, "-", "-").digest, tmp_path, threads=1)
    print(result)  # the figures are what one comes for
    assert result.after.quality >= result.before.quality + 0.15
