"""Recipes that set something up say what took how long, and end at the step that failed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

STEPS = Path(__file__).parents[2] / "scripts" / "steps.sh"


def run(recipe: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/bash", "-c", f"source {STEPS}; {recipe}"], text=True, capture_output=True, check=False)


def test_each_step_is_named_as_it_begins_and_its_seconds_are_in_the_last_line() -> None:
    done = run("step one echo 'a  b'; step two true; took .venv")
    *names, last = done.stdout.splitlines()
    assert names == ["  one", "a  b", "  two"]
    assert re.fullmatch(r"\.venv took \d+ s: one \d+, two \d+", last)
    assert re.fullmatch(r"all took \d+ s\n", run("took all").stdout)


def test_a_failed_step_ends_the_recipe_with_its_status() -> None:
    done = run("step one bash -c 'exit 7'; step two true; took .venv")
    assert (done.returncode, done.stdout) == (7, "  one\n")
