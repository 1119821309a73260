"""Which of the long tests a run has: a pytest plugin that draws a third of them, chosen by the commit.

A test marked `drawn(seconds=…)` belongs to a group, which is its file, or what `group=` names in it. With `--draw
third`, a third of the groups run: those of like length stand in threes, and the commit chooses one of each three, so
that a run takes about as long whatever was drawn, and each group runs in a third of all commits. Files are drawn among
each other, and the named groups of one file among themselves. `--draw all` is the default.

A group that fails stays in the draw until it has passed three times. `tests/drawn.json` names such groups with the
passes that they still need. Runs write it, and it is committed like the tests, since a run's machine is not the next's.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tests" / "drawn.json"
PASSES = 3
"""How often a group has to pass after it has failed before it is left to the draw again."""


def choose(groups: Mapping[str, float], commit: str, kept: Iterable[str] = ()) -> set[str]:
    """The groups that a commit draws, with those that are kept in. `groups`: seconds that each of them takes."""
    ordered = sorted(groups, key=lambda group: (-groups[group], group))
    drawn = set(kept) & set(groups)
    for first in range(0, len(ordered), 3):
        three = ordered[first : first + 3]
        number = int.from_bytes(hashlib.sha256(f"{commit} {first}".encode()).digest()[:8])
        drawn.update(three[number % 3 : number % 3 + 1])
    return drawn


def after_run(kept: Mapping[str, int], outcomes: Mapping[str, bool]) -> dict[str, int]:
    """The passes that groups still need after a run. `outcomes`: whether all of a group's tests passed."""
    needed = dict(kept)
    for group, has_passed in outcomes.items():
        if not has_passed:
            needed[group] = PASSES
        elif needed.pop(group, 0) > 1:
            needed[group] = kept[group] - 1
    return dict(sorted(needed.items()))


def read_kept(path: Path = KEPT) -> dict[str, int]:
    """The groups that failed, with the passes that they still need."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_kept(kept: Mapping[str, int], path: Path = KEPT) -> None:
    """Replaces what `read_kept` reads."""
    path.write_text(json.dumps(kept, indent=1) + "\n")


def group_of(item: pytest.Item) -> str | None:
    """The group of a drawn test, or None for one that is in every run."""
    mark = item.get_closest_marker("drawn")
    if mark is None:
        return None
    file = item.nodeid.partition("::")[0]
    return f"{file}::{mark.kwargs['group']}" if "group" in mark.kwargs else file


class Draw:
    """Leaves out what was not drawn, and keeps in what failed."""

    def __init__(self, commit: str, kept: Path = KEPT) -> None:
        """`commit`: what chooses, or nothing where all groups run. `kept`: the file of those that have failed."""
        self._commit = commit
        self._kept = kept
        self._left_out: dict[str, int] = {}
        self._outcomes: dict[str, bool] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselects the groups that the commit has not drawn; each process chooses alike."""
        if not self._commit:
            return
        lots: dict[str, dict[str, float]] = defaultdict(dict)
        tests: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            if (group := group_of(item)) is not None:
                file, _, name = group.partition("::")
                lots[file if name else "files"][group] = item.get_closest_marker("drawn").kwargs["seconds"]
                tests[group].append(item)
        kept = read_kept(self._kept)
        drawn = set().union(*(choose(groups, self._commit, kept) for groups in lots.values()))
        self._left_out = {group: len(tests[group]) for group in sorted(set(tests) - drawn)}
        leave = {item for group in self._left_out for item in tests[group]}
        config.hook.pytest_deselected(items=list(leave))
        items[:] = [item for item in items if item not in leave]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Says in a report which group its test belongs to."""
        report = yield
        if (group := group_of(item)) is not None:
            report.user_properties.append(("group", group))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes whether a group's tests passed."""
        group = dict(report.user_properties).get("group")
        if group is not None and not report.skipped:
            self._outcomes[str(group)] = self._outcomes.get(str(group), True) and report.passed

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """Takes from a worker what it left out: this process collects nothing."""
        self._left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Writes down which groups failed and which have passed since."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["left_out"] = self._left_out
        elif (kept := after_run(before := read_kept(self._kept), self._outcomes)) != before:
            write_kept(kept, self._kept)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints what was left out and what stays in the draw."""
        if self._left_out:
            terminalreporter.section(f"left out by the draw of commit {self._commit[:12]}; make test-all runs it")
            for group, tests in sorted(self._left_out.items()):
                terminalreporter.write_line(f"LEFT OUT {group} ({tests} tests)")
        for group, passes in read_kept(self._kept).items():
            terminalreporter.write_line(f"KEPT IN THE DRAW until it has passed {passes} times more: {group}")


def current_commit() -> str:
    """The commit of this checkout, or nothing where there is no repository."""
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def add_options(parser: pytest.Parser) -> None:
    """Adds `--draw` to pytest's options."""
    parser.addoption("--draw", choices=("third", "all"), default="all", help="run a third of the long tests, or all")


def register(config: pytest.Config) -> None:
    """Adds the plugin to a run."""
    commit = current_commit() if config.getoption("draw", "all") == "third" else ""
    config.pluginmanager.register(Draw(commit), "draw")


def main(words: list[str]) -> None:
    """`python -m tests.draw keep GROUP …`: keeps groups in the draw that failed on another machine."""
    if len(words) < 2 or words[0] != "keep":
        raise SystemExit("usage: python -m tests.draw keep GROUP [GROUP …]")
    write_kept(after_run(read_kept(), dict.fromkeys(words[1:], False)))


if __name__ == "__main__":
    main(sys.argv[1:])
