"""The pictures in screenshots/ are what the console draws today."""

from __future__ import annotations

import pytest
from scripts.export_recording import FRAMES, frames
from scripts.export_recording import OUT as RECORDING
from scripts.export_screenshots import OUT, PICTURES, draw, lines_of


@pytest.mark.parametrize("name", PICTURES)
async def test_the_picture_is_current(name: str) -> None:
    committed = OUT / f"{name}.svg"
    assert committed.exists(), "run: python scripts/export_screenshots.py"
    drawn = lines_of(await draw(name))
    assert len(drawn) > 10
    assert drawn == lines_of(committed.read_text(encoding="utf-8")), "run: python scripts/export_screenshots.py"


async def test_the_recording_is_current_and_small() -> None:
    kept = RECORDING.read_text(encoding="utf-8")
    drawn = [lines_of(svg) for svg in await frames()]
    assert len(drawn) == len(FRAMES) == kept.count('<g class="show-f')
    shown = [lines_of(part) for part in kept.split('<g class="show-f')[1:]]
    assert shown == drawn, "run: python scripts/export_recording.py"
    assert "RARMED" in "".join(shown[0]).replace(" ", "")
    assert "BACKONv7/B2" in "".join(shown[4]).replace(" ", "")
    assert len(kept) < 1_500_000


def test_no_picture_is_left_over() -> None:
    assert {path.stem for path in OUT.glob("*.svg")} == set(PICTURES)
