"""Every screen says today what its snapshot says; with NO_COLOR it says the same, without a colour."""

from __future__ import annotations

import pytest
from scripts.export_snapshots import CASES, OUT, SIZES, draw

from loradeck.tui.state import Screen

REWRITE = "look at the difference, then run: python scripts/export_snapshots.py"


@pytest.mark.parametrize(("size", "mode"), CASES, ids=lambda part: part if isinstance(part, str) else f"{part[0]}")
async def test_the_snapshots_are_current(size: tuple[int, int], mode: str) -> None:
    drawn = await draw(size, mode)
    assert len(drawn) == len(Screen)
    for name, text in drawn.items():
        kept = OUT / name
        assert kept.exists(), REWRITE
        assert text == kept.read_text(encoding="utf-8"), f"{name}: {REWRITE}"


@pytest.mark.parametrize("screen", list(Screen))
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}")
def test_without_colours_the_same_is_said(screen: Screen, size: tuple[int, int]) -> None:
    dark, plain = (
        (OUT / f"{screen.value}-{size[0]}x{size[1]}-{mode}.txt").read_text(encoding="utf-8").split("\ncoloured:\n")
        for mode in ("dark", "no-color")
    )
    assert plain[0] == dark[0]
    assert (plain[1], bool(dark[1])) == ("", True)


def test_no_snapshot_is_left_over() -> None:
    assert len(list(OUT.glob("*"))) == len(Screen) * len(CASES)
