"""The tables of docs/training-guards.md are what the guards do today, and none of them ends many runs that are well."""

from __future__ import annotations

import json
import re

import pytest
from tests.training_guards.rates import AGAIN, KEPT, PAGE, exactly_ended, kinds, table
from tests.training_guards.shares import CHANGE, LOOKS, steps

PAGE_TEXT, ROWS = PAGE.read_text(), json.loads(KEPT.read_text())["rows"]
GUARDS = ("loss_spike", "chosen_fell", "suite_fell", "safety_fell", "toxicity_rose")


@pytest.mark.parametrize("guard", GUARDS)
def test_the_first_runs_of_each_line_end_where_they_ended_when_the_table_was_written(guard: str) -> None:
    drawn = {
        (one.name, one.change): [one.ended(seed) for seed in range(AGAIN)] for one in kinds() if one.guard == guard
    }
    assert drawn == {(row["name"], row["change"]): row["first"] for row in ROWS if row["guard"] == guard}


@pytest.mark.parametrize("guard", GUARDS)
def test_the_documented_table_is_of_the_runs_that_were_drawn(guard: str) -> None:
    for line in table([row for row in ROWS if row["guard"] == guard]):
        assert line in PAGE_TEXT, line


@pytest.mark.parametrize("guard", GUARDS)
def test_of_runs_in_which_nothing_changes_a_guard_ends_one_in_twenty_at_most(guard: str) -> None:
    falsely = {row["name"]: row["ended"] / row["runs"] for row in ROWS if row["guard"] == guard and not row["change"]}
    if guard == "suite_fell":  # in the worst case
        falsely |= {f"{n}, {p}": exactly_ended(n, [p] * (LOOKS + 1)) for n in (20, 50, 100) for p in (0.8, 0.5)}
    assert falsely
    assert max(falsely.values()) <= 0.05, falsely
    assert f"| {max(falsely.values()):.1%} |" in next(
        line for line in PAGE_TEXT.splitlines() if f"| `{guard}` |" in line
    )


def test_the_page_says_how_often_a_suite_for_selection_ends_a_run_whose_looks_draw_their_answers_anew() -> None:
    rows = re.findall(r"^\| (\d+) items \| (.+) \|$", PAGE_TEXT, flags=re.MULTILINE)
    assert [int(n) for n, _ in rows] == [20, 50, 100]
    steady = ([0.8] * (LOOKS + 1), [0.5] * (LOOKS + 1))
    fallen = (steps(0.8, 0.6)[: CHANGE + 1], steps(0.8, 0.6), steps(0.8, 0.4)[: CHANGE + 1], steps(0.8, 0.4))
    for n, cells in rows:
        found = [exactly_ended(int(n), rights) for rights in (*steady, *fallen)]
        assert cells.split(" | ") == [f"{share:.1%}" for share in found], n
        assert max(found[:2]) <= 0.05, n
