"""Each test that docs/training.md names for what was wrong once is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_what_the_page_on_training_says_has_a_test_has_it() -> None:
    page = (TESTS.parent / "docs/training.md").read_text()
    rows = [line for line in page.splitlines() if "`test_" in line]
    named = {name for line in rows for name in re.findall(r"`(test_\w+)`", line)}
    there = {name for path in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert len(rows) > 25
    assert named <= there, named - there
