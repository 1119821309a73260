"""A third of the long tests is drawn by the commit, and what failed stays in until it has passed three times."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import draw

pytest_plugins = ("pytester",)

ONLY_XDIST = {"PYTHONPATH": str(draw.ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
"""Importing every plugin that is installed takes seconds of each run."""

COMMITS = [f"{n:040x}" for n in range(400)]
GROUPS = {f"tests/test_{n}.py": float(60 // (n + 1)) for n in range(12)}

CONFTEST = """
from pathlib import Path
from tests.draw import Draw

def pytest_configure(config):
    config.addinivalue_line("markers", "drawn(seconds, group): a long test")
    config.pluginmanager.register(Draw({commit!r}, Path({kept!r})))
"""
DRAWN = """
import pytest
pytestmark = pytest.mark.drawn(seconds={seconds})
def test_what_is_long():
    assert {passes}
"""


def test_a_commit_draws_a_third_and_always_the_same_third() -> None:
    for commit in COMMITS:
        assert len(draw.choose(GROUPS, commit)) == 4
        assert draw.choose(dict(reversed(GROUPS.items())), commit) == draw.choose(GROUPS, commit)


def test_every_group_is_drawn_by_about_a_third_of_all_commits() -> None:
    for group in GROUPS:
        drawn = sum(group in draw.choose(GROUPS, commit) for commit in COMMITS)
        assert 100 <= drawn <= 170, group


def test_of_three_groups_of_like_length_exactly_one_is_drawn() -> None:
    longest = sorted(GROUPS, key=lambda group: -GROUPS[group])[:3]
    for commit in COMMITS:
        assert sum(group in draw.choose(GROUPS, commit) for group in longest) == 1


def test_what_is_kept_in_runs_beside_what_is_drawn_and_what_no_longer_exists_does_not() -> None:
    kept = {"tests/test_3.py": 2, "tests/test_gone.py": 3}
    for commit in COMMITS[:20]:
        drawn = draw.choose(GROUPS, commit, kept)
        assert drawn == draw.choose(GROUPS, commit) | {"tests/test_3.py"}


def test_a_group_that_failed_needs_three_passes_and_a_failure_between_begins_anew() -> None:
    kept = draw.after_run({}, {"a": False, "b": True})
    assert kept == {"a": 3}
    kept = draw.after_run(kept, {"a": True})
    assert kept == {"a": 2}
    assert draw.after_run(kept, {"a": False}) == {"a": 3}
    assert draw.after_run(kept, {"b": True}) == {"a": 2}, "a run that did not have it changes nothing"
    kept = draw.after_run(draw.after_run(kept, {"a": True}), {"a": True})
    assert kept == {}


@pytest.fixture(autouse=True)
def only_xdist(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ONLY_XDIST.items():
        monkeypatch.setenv(name, value)


def _write(pytester: pytest.Pytester, commit: str, failing: str = "") -> Path:
    """Three drawn files and one that always runs; the path of what is kept in."""
    kept = pytester.path / "drawn.json"
    pytester.makeconftest(CONFTEST.format(commit=commit, kept=str(kept)))
    names = ("test_one", "test_two", "test_three")
    pytester.makepyfile(**{name: DRAWN.format(seconds=9, passes=name != failing) for name in names})
    pytester.makepyfile(test_short="def test_what_is_short(): pass")
    return kept


def _run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *words)


def test_a_run_on_two_workers_has_a_third_says_what_it_left_out_and_runs_all_that_is_short(
    pytester: pytest.Pytester,
) -> None:
    _write(pytester, COMMITS[0])
    result = _run(pytester, "-n", "2")
    result.assert_outcomes(passed=2)
    assert sum(line.startswith("LEFT OUT test_") for line in result.outlines) == 2


def test_the_named_groups_of_one_file_are_drawn_among_themselves(pytester: pytest.Pytester) -> None:
    _write(pytester, COMMITS[0])
    parts = [f"@pytest.mark.drawn(seconds=9, group='part {n}')\ndef test_part_{n}(): pass" for n in range(3)]
    pytester.makepyfile(test_parts="\n".join(["import pytest", *parts]))
    result = _run(pytester)
    result.assert_outcomes(passed=3)
    assert sum(line.startswith("LEFT OUT test_parts.py::part ") for line in result.outlines) == 2


def test_a_drawn_group_that_fails_is_in_the_next_three_runs_whatever_their_commit(pytester: pytest.Pytester) -> None:
    kept = _write(pytester, "", failing="test_two")
    _run(pytester).assert_outcomes(passed=3, failed=1)
    assert draw.read_kept(kept) == {"test_two.py": 3}
    other = next(
        commit
        for commit in COMMITS
        if "test_two.py" not in draw.choose(dict.fromkeys(("test_one.py", "test_two.py", "test_three.py"), 9.0), commit)
    )
    for passes_left in (2, 1, None):
        _write(pytester, other)
        _run(pytester).assert_outcomes(passed=3)
        assert draw.read_kept(kept).get("test_two.py") == passes_left
    _run(pytester).assert_outcomes(passed=2)
