"""The table of docs/protocol.md: each rule of the wire is a function of the rules, which the simulation runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.simulation.in_a_process import simulate

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"`([\w.]+)`")


def _rows() -> list[tuple[list[str], list[str], list[str]]]:
    """The functions of each row, the modules that use them, and their tests."""
    _, _, after = (ROOT / "docs/protocol.md").read_text().partition("| DESIGN | rule | functions |")
    rows = [line.split("|") for line in after.partition("\n\n")[0].splitlines()[2:]]
    return [(NAME.findall(row[3]), NAME.findall(row[4]), NAME.findall(row[5])) for row in rows]


ROWS = _rows()
FUNCTIONS = [name for functions, _, _ in ROWS for name in functions]


def _source(module: str) -> str:
    path = module.replace(".", "/") + ".py"
    return next(
        folder / path for folder in (ROOT / "console", ROOT / "agents", ROOT) if (folder / path).exists()
    ).read_text()


@pytest.mark.parametrize(("functions", "users", "tests"), ROWS)
def test_each_function_of_a_rule_is_used_and_tested_where_the_table_says(
    functions: list[str], users: list[str], tests: list[str]
) -> None:
    for name in functions:
        module, _, function = name.rpartition(".")
        assert re.search(rf"^def {function}\(", _source(f"loradeck.rules.{module}"), re.MULTILINE)
        assert any(re.search(rf"\b{function}\(", _source(user)) for user in users)
        assert any(re.search(rf"\b{function}\(", _source(f"tests.unit.rules.{test}")) for test in tests)


@pytest.fixture(scope="module")
def run() -> set[str]:
    """The functions that a few seeds run: of the usual plans, of older copies of the database, and of two hubs."""
    usual = simulate("--functions", "--seeds", "0:35")["functions"]
    restored = simulate("--functions", "--seeds", "0:15", "--faults", "restore hub")["functions"]
    two_hubs = simulate("--functions", "--seeds", "0:8", "--faults", "stand by")["functions"]
    return {*usual, *restored, *two_hubs}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_simulation_runs_each_rule(function: str, run: set[str]) -> None:
    assert function in run
