"""Every screen says today what its snapshot says; with NO_COLOR it says the same, without a colour."""

from __future__ import annotations

import pytest
from scripts.export_snapshots import CASES, NAMES, OUT, SIZES, draw, file_of

REWRITE = "look at the difference, then run: python scripts/export_snapshots.py"


@pytest.mark.parametrize(("size", "mode"), CASES, ids=lambda part: part if isinstance(part, str) else f"{part[0]}")
async def test_the_snapshots_are_current(size: tuple[int, int], mode: str) -> None:
    drawn = await draw(size, mode)
    assert len(drawn) == len(NAMES)
    for name, text in drawn.items():
        kept = OUT / name
        assert kept.exists(), REWRITE
        assert text == kept.read_text(encoding="utf-8"), f"{name}: {REWRITE}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}")
def test_without_colours_the_same_is_said(name: str, size: tuple[int, int]) -> None:
    dark, plain = (
        (OUT / file_of(name, size, mode)).read_text(encoding="utf-8").split("\ncoloured:\n")
        for mode in ("dark", "no-color")
    )
    assert plain[0] == dark[0]
    assert (plain[1], bool(dark[1])) == ("", True)


def test_no_snapshot_is_left_over() -> None:
    assert len(list(OUT.glob("*"))) == len(NAMES) * len(CASES)
