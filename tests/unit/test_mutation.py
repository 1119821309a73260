"""The scores in docs/mutation.md are what mutmut gives: one module's are computed again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripts import mutation

MODULE = "loradeck/rules/serving/retention.py"


@pytest.mark.drawn(seconds=10, group="mutants of one module")
def test_the_score_of_a_small_module_is_the_one_in_the_docs(tmp_path: Path) -> None:
    copy = mutation.Copy(mutation.GROUPS["slice"], tmp_path)
    copy.prepare()
    copy.run(120)
    assert _noticed(copy.scores()[MODULE]) == _noticed(mutation.figures()["slice"]["modules"][MODULE])
    copy.prepare()
    assert copy.scores()[MODULE]["not run"] == 0, "a second run goes on where the first one was"


def _noticed(score: dict[str, int]) -> dict[str, int]:
    """The score with mutants that took too long among the killed: on a busy machine a test that fails may be late."""
    return score | {"killed": score["killed"] + score["timeout"], "timeout": 0}


def test_a_changed_test_lets_survivors_run_again_and_what_was_killed_stays(tmp_path: Path) -> None:
    group = mutation.Group((MODULE,), ("tests/unit/rules",))
    copy = mutation.Copy(group, tmp_path)
    copy.prepare()
    meta = tmp_path / "mutants" / "src" / f"{MODULE}.meta"
    meta.parent.mkdir(parents=True)
    codes = {"killed": 1, "survived": 0, "timeout": 36, "no test": 33, "interrupted": 2, "not run": None}
    for tests, again in (("as they were", {"interrupted"}), ("changed", {"interrupted", "survived", "no test"})):
        meta.write_text(json.dumps({"exit_code_by_key": codes}))
        if tests == "changed":
            (tmp_path / "tests.sha256").write_text("another digest")
        copy.prepare()
        now = json.loads(meta.read_text())["exit_code_by_key"]
        assert {name for name, code in now.items() if code is None} == again | {"not run"}


@pytest.mark.drawn(seconds=10, group="mutants of one module")
def test_a_sample_is_the_same_for_a_seed_and_nothing_else_runs(tmp_path: Path) -> None:
    copy = mutation.Copy(mutation.GROUPS["slice"], tmp_path)
    copy.prepare()
    drawn = copy.draw(3, seed=7)
    assert len(set(drawn)) == 3
    assert copy.draw(3, seed=7) == drawn
    copy.run(120, drawn)
    score = copy.scores(drawn)[MODULE]
    assert score["mutants"] - score["not run"] == 3
    copy.run(0, drawn)  # there is nothing left to run


def test_the_table_in_the_docs_is_that_of_the_figures() -> None:
    assert mutation.table(mutation.figures()) in mutation.DOCUMENT.read_text()
