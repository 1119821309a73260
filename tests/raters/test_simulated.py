"""What is found of simulated raters is what docs/preferences.md says."""

from __future__ import annotations

from pathlib import Path

from tests.raters.simulated import Habits, covered_table, found, found_table

DOCUMENT = (Path(__file__).parents[2] / "docs" / "preferences.md").read_text()


def test_alpha_finds_a_rater_who_guesses_among_four_good_ones() -> None:
    flagged, disagrees, highest, _ = found(Habits(0.5), 200, 3)
    assert (flagged, disagrees, highest) == (40, 40, 40)


def test_the_documented_tables_are_those_of_the_simulation() -> None:
    for line in [*found_table(), *covered_table()]:
        assert line in DOCUMENT, line
