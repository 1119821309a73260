"""The runner of `make faults`, by one round of the cheapest kind, and the table that was committed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults.__main__ import DOCUMENT, KINDS, ROOT, Kind, document
from tests.faults.record import Found

CHEAP = "clock steps"


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    paths = ("--state", str(folder / "faults.json"), "--document", str(folder / "faults.md"))
    command = [sys.executable, "-m", "tests.faults", "--only", CHEAP, *paths, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_round_is_done_once_and_the_next_call_goes_on_after_it(tmp_path: Path) -> None:
    first = run(tmp_path, "--rounds", "1")
    assert first.returncode == 0, first.stdout + first.stderr + (tmp_path / "faults.log").read_text()
    assert f"{CHEAP}, round 1, seed " in first.stdout
    row = next(line for line in (tmp_path / "faults.md").read_text().splitlines() if line.startswith(f"| {CHEAP} |"))
    assert row.split(" | ")[1:3] == ["1", "0"]
    again = run(tmp_path, "--rounds", "2", "--minutes", "0")
    assert again.stdout == f"not done yet: {CHEAP}; call again to go on\n"
    assert run(tmp_path, "--rounds", "1").stdout == ""


def test_what_tests_have_recorded_stands_in_the_table(tmp_path: Path) -> None:
    kind = Kind(rounds=2, seconds=61.0, seeds=[1, 2])
    kind.add([Found(moves=10, lost=0, answers=500, late=1), Found(moves=5, lost=2, answers=100, late=0)])
    assert "| kills | 2 | 0 | 15 | 2 | 600 | 1 | 30 | 1 2 |" in document("abc", {"kills": kind})


def test_the_committed_table_has_every_kind_and_nothing_lost_or_late() -> None:
    lines = [line.strip("|").split("|") for line in DOCUMENT.read_text().splitlines() if line.count("|") > 8]
    found = {cells[0].strip(): cells for cells in lines}
    assert found.keys() >= KINDS.keys()
    for name in KINDS:
        _, rounds, failed, _, lost, _, late = (cell.strip() for cell in found[name][:7])
        assert int(rounds) >= 1
        assert (failed, lost or "0", late or "0") == ("0", "0", "0"), name
