"""docs/trust.md names tests that exist, and every file of attacks."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRUST = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")


def _tests() -> dict[str, set[str]]:
    """The tests of each file of attacks."""
    found = sorted((ROOT / "tests" / "attacks").glob("test_*.py"))
    return {path.name: set(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))) for path in found}


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TRUST))
    assert len(named) > 20
    assert named <= set().union(*_tests().values())


def test_every_file_of_attacks_is_named_or_has_a_test_that_is() -> None:
    missing = [
        name for name, tests in _tests().items() if name not in TRUST and not any(test in TRUST for test in tests)
    ]
    assert missing == []
