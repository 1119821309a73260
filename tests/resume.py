"""Runs that go on where they stopped: a pytest plugin that leaves out what has passed since the code last changed.

`--resume FILE` keeps the names of tests that have passed in FILE. Another commit, or a change that is not committed,
begins anew.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALL_BUT_THE_DRAW = ("--", ".", ":!tests/drawn.json")
"""A run writes down which drawn tests failed; that changes no code."""


def state_of_code() -> str:
    """A digest of the commit and of everything that was changed since."""
    state = hashlib.sha256(_git("rev-parse", "HEAD") + _git("diff", "HEAD", *ALL_BUT_THE_DRAW))
    for name in _git("ls-files", "--others", "--exclude-standard", "-z").split(b"\0"):
        path = ROOT / name.decode()
        if path.is_file():
            state.update(name + path.read_bytes())
    return state.hexdigest()


def _git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, check=True).stdout


class Resume:
    """Leaves out the tests that a file names, and adds to it those that pass."""

    def __init__(self, path: Path, state: str) -> None:
        """`path`: the file, whose first line is the state of the code that its tests passed on."""
        self._path = path
        self._state = state
        lines = path.read_text().splitlines() if path.exists() else []
        self._passed = set(lines[1:]) if lines[:1] == [state] else set()
        self._left_out = 0

    def begin(self) -> None:
        """Starts the file anew where the code has changed."""
        if not self._passed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self._state + "\n")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselects what has passed."""
        done = [item for item in items if item.nodeid in self._passed]
        self._left_out = len(done)
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in self._passed]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds a test that has passed, its teardown with it."""
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)
        elif not report.passed:
            self._passed.discard(report.nodeid)
        elif report.when == "teardown" and report.nodeid in self._passed:
            with self._path.open("a") as file:
                file.write(report.nodeid + "\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """Takes from a worker how much it left out: this process collects nothing."""
        self._left_out = max(self._left_out, getattr(node, "workeroutput", {}).get("passed_before", 0))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Ends well where nothing was left to run."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["passed_before"] = self._left_out
        elif session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self._left_out:
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints how many tests were not run again."""
        if self._left_out:
            terminalreporter.write_line(f"{self._left_out} tests had passed on this code before and were not run again")


def add_options(parser: pytest.Parser) -> None:
    """Adds `--resume` to pytest's options."""
    parser.addoption("--resume", type=Path, metavar="FILE", help="leave out what FILE says has passed on this code")


def register(config: pytest.Config) -> None:
    """Adds the plugin to a run that was asked to go on."""
    if (path := config.getoption("resume", None)) is not None:
        plugin = Resume(Path(config.invocation_params.dir, path), state_of_code())
        if not hasattr(config, "workerinput"):
            plugin.begin()
        config.pluginmanager.register(plugin, "resume")
