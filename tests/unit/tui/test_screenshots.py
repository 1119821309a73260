"""The pictures in screenshots/ are what the console draws today."""

from __future__ import annotations

import pytest
from scripts.export_screenshots import OUT, PICTURES, draw, lines_of


@pytest.mark.parametrize("name", PICTURES)
async def test_the_picture_is_current(name: str) -> None:
    committed = OUT / f"{name}.svg"
    assert committed.exists(), "run: python scripts/export_screenshots.py"
    drawn = lines_of(await draw(name))
    assert len(drawn) > 10
    assert drawn == lines_of(committed.read_text(encoding="utf-8")), "run: python scripts/export_screenshots.py"


def test_no_picture_is_left_over() -> None:
    assert {path.stem for path in OUT.glob("*.svg")} == set(PICTURES)
