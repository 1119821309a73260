"""Each test that docs/training.md names for what was wrong once, and docs/seeds.md for what is refused, is there."""

from __future__ import annotations

import re
from pathlib import Path

from loradeck.rules.errors import STATUS

TESTS = Path(__file__).parents[1]


def test_what_pages_say_has_a_test_has_it() -> None:
    there = {name for path in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    for page, least in (("training.md", 25), ("seeds.md", 8)):
        text = (TESTS.parent / "docs" / page).read_text()
        rows = [line for line in text.splitlines() if "`test_" in line]
        named = {name for line in rows for name in re.findall(r"`(test_\w+)`", line)}
        assert len(rows) > least, page
        assert named <= there, named - there


def test_each_refusal_of_the_loop_has_a_code_that_exists_and_a_test() -> None:
    page = (TESTS.parent / "docs" / "seeds.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if "`test_" in line]
    codes = [code for row in rows for code in re.findall(r"`(\w+)`", row[1])]
    for needed in ("agreement_low", "no_depth", "training_frozen", "no_dpia", "opted_out", "retention_over"):
        assert needed in codes
    assert [code for code in codes if code not in STATUS] == []
