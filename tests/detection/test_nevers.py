"""What guard, candidates and shadows never do: each test that docs/detection.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_each_never_of_the_page_is_a_test() -> None:
    page = (TESTS.parent / "docs/detection.md").read_text()
    named = set(re.findall(r"`(test_\w+)[\[`]", page))
    there = {name for path in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert len(named) > 30
    assert named <= there, named - there
