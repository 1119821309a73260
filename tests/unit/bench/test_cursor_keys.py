"""The console's benchmark presses keys that each move the cursor, also where there are fewer rows than keys."""

from __future__ import annotations

import pytest
from tests.bench.console import cursor_keys


@pytest.mark.parametrize(("many", "rows"), [(200, 10_000), (200, 100), (30, 100), (7, 2)])
def test_each_key_moves_the_cursor_and_none_leaves_the_list(many: int, rows: int) -> None:
    at, seen = 0, [0]
    for key in cursor_keys(many, rows):
        at += {"j": 1, "k": -1}[key]
        seen.append(at)
    assert len(seen) == many + 1
    assert (min(seen), max(seen)) == (0, min(many, rows - 1))
