"""A run that was stopped goes on with what has not passed; changed code begins anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.resume import ROOT, state_of_code

pytest_plugins = ("pytester",)

ONLY_XDIST = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
"""Importing every plugin that is installed takes seconds of each run."""

CONFTEST = """
from pathlib import Path
from tests.resume import Resume

def pytest_configure(config):
    plugin = Resume(Path({path!r}), {state!r})
    if not hasattr(config, "workerinput"):
        plugin.begin()
    config.pluginmanager.register(plugin)
"""
TESTS = """
import pathlib
def test_passes(): pass
def test_passes_once_it_is_mended(): assert pathlib.Path("mended").exists()
def test_whose_teardown_fails(request): request.addfinalizer(lambda: pathlib.Path("mended").stat())
"""


def _run(pytester: pytest.Pytester, state: str, *words: str) -> pytest.RunResult:
    pytester.makeconftest(CONFTEST.format(path=str(pytester.path / "passed"), state=state))
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *words)


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_only_what_has_not_passed_runs_again_until_the_code_changes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    for name, value in ONLY_XDIST.items():
        monkeypatch.setenv(name, value)
    pytester.makepyfile(TESTS)
    _run(pytester, "first", *words).assert_outcomes(passed=2, failed=1, errors=1)
    (pytester.path / "mended").touch()
    again = _run(pytester, "first", *words)
    again.assert_outcomes(passed=2)
    again.stdout.fnmatch_lines(["1 tests had passed on this code before and were not run again"])
    nothing_left = _run(pytester, "first", *words)
    assert nothing_left.ret == pytest.ExitCode.OK
    nothing_left.assert_outcomes()
    _run(pytester, "second", *words).assert_outcomes(passed=3)


def test_the_state_of_the_code_is_the_same_until_a_file_changes(tmp_path: Path) -> None:
    before = state_of_code()
    assert state_of_code() == before
    new = ROOT / "tests" / f"new_{tmp_path.name}.txt"
    new.write_text("a file that git does not know")
    try:
        assert state_of_code() != before
    finally:
        new.unlink()
    assert state_of_code() == before
