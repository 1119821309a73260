"""The tables of docs/gates.md are what the rule does today."""

from pathlib import Path

from tests.gates.rates import chains, share_passed, single

DOCUMENT = (Path(__file__).parents[2] / "docs" / "gates.md").read_text()


def test_the_documented_rates_of_one_comparison_are_those_of_the_rule() -> None:
    for line in single():
        assert line in DOCUMENT, line


def test_the_documented_chains_of_releases_are_those_of_the_rule() -> None:
    for line in chains():
        assert line in DOCUMENT, line


def test_a_candidate_that_loses_the_limit_passes_once_in_twenty_whatever_differs() -> None:
    for differ in (0.06, 0.10, 0.20, 0.40):
        assert 0.03 < share_passed(0.05, differ, bound=True) < 0.06
