"""Where a run of the tests spends its time: a pytest plugin that prints the slowest tests, files and fixtures."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

SHOWN = 10
"""How many rows of each kind are printed."""

LONG_RUN_S = 30.0
"""Only a run that takes longer prints where its time went."""

CPU = "cpu_s"
FIXTURES = "fixture_times"
COLLECTION = "collection_s"


class Spent(NamedTuple):
    """Seconds by the clock and how often they were spent."""

    seconds: float = 0.0
    times: int = 0

    def plus(self, seconds: float, times: int = 1) -> Spent:
        """This and `seconds` more, spent `times` times."""
        return Spent(self.seconds + seconds, self.times + times)


def _cpu_s() -> float:
    """Seconds of CPU of this process and of those children that have ended and were waited for."""
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


class Stopwatch:
    """What each process that runs tests measures: its fixtures' set-up, its collection and each test's CPU."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._start = time.monotonic()
        self.collection_s = 0.0
        self.fixtures: dict[str, Spent] = defaultdict(Spent)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self) -> None:
        """Notes how long it took to import and collect the tests."""
        self.collection_s = time.monotonic() - self._start

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """Times a fixture's own set-up; what it depends on is set up before this begins."""
        start = time.monotonic()
        try:
            return (yield)  # type: ignore[return-value]
        finally:
            name = f"{fixturedef.argname} ({fixturedef.scope}, {fixturedef.baseid or 'plugin'})"
            self.fixtures[name] = self.fixtures[name].plus(time.monotonic() - start)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Remembers the CPU used before a test."""
        item.stash[_CPU_BEFORE] = _cpu_s()
        return (yield)  # type: ignore[return-value]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        """Puts the CPU of a test, with its fixtures, into its report."""
        try:
            return (yield)  # type: ignore[return-value]
        finally:
            item.user_properties.append((CPU, _cpu_s() - item.stash[_CPU_BEFORE]))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Hands what was measured to the process that started this worker."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[FIXTURES] = {name: list(spent) for name, spent in self.fixtures.items()}
            output[COLLECTION] = self.collection_s


_CPU_BEFORE = pytest.StashKey[float]()


class Times:
    """Adds up the reports of all workers and prints them at the end of the run."""

    def __init__(self, config: pytest.Config, stopwatch: Stopwatch) -> None:
        self._config = config
        self._own = stopwatch
        self._start = time.monotonic()
        self._tests: dict[str, float] = defaultdict(float)
        self._cpu: dict[str, float] = defaultdict(float)
        self._fixtures: dict[str, Spent] = defaultdict(Spent)
        self._collections: list[float] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds one phase of a test."""
        self._tests[report.nodeid] += report.duration
        if report.when == "teardown":
            self._cpu[report.nodeid] += sum(float(str(value)) for name, value in report.user_properties if name == CPU)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Adds what a worker measured of its fixtures."""
        output = getattr(node, "workeroutput", {})
        for name, (seconds, times) in output.get(FIXTURES, {}).items():
            self._fixtures[name] = self._fixtures[name].plus(seconds, times)
        self._collections += [output[COLLECTION]] if COLLECTION in output else []

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints the slowest tests, files and fixtures of a long run; all figures go into pytest's cache folder."""
        run_s = time.monotonic() - self._start
        if run_s < LONG_RUN_S:
            return
        if not self._collections:
            self._fixtures, self._collections = self._own.fixtures, [self._own.collection_s]
        files, cpu = defaultdict(Spent), defaultdict(float)
        for test, seconds in self._tests.items():
            path = test.partition("::")[0]
            files[path] = files[path].plus(seconds)
            cpu[path] += self._cpu[test]
        write = terminalreporter.write_line
        terminalreporter.section("where the time went, in seconds by the clock")
        write(
            f"whole run {run_s:.0f}, of it imports and collection up to {max(self._collections):.1f}"
            f" in each of {len(self._collections)} processes; tests and fixtures {sum(self._tests.values()):.0f},"
            f" their CPU {sum(cpu.values()):.0f}"
        )
        for heading, rows in (
            ("slowest tests", {test: f"{seconds:8.1f}" for test, seconds in _largest(self._tests)}),
            (
                "slowest files (seconds, CPU, tests)",
                {path: f"{spent.seconds:8.1f} {cpu[path]:8.1f} {spent.times:6}" for path, spent in _largest(files)},
            ),
            (
                "slowest fixtures (seconds, times set up)",
                {name: f"{spent.seconds:8.1f} {spent.times:6}" for name, spent in _largest(self._fixtures)},
            ),
        ):
            write(heading)
            for name, figures in rows.items():
                write(f"{figures}  {name}")
        cache: pytest.Cache | None = getattr(self._config, "cache", None)
        if cache is not None:
            folder = cache.mkdir("times")
            (folder / "last.json").write_text(
                json.dumps({"tests": self._tests, "cpu": self._cpu, "fixtures": self._fixtures}, indent=1)
            )


def _largest(table: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(table.items(), key=lambda row: row[1], reverse=True)[:SHOWN]


def register(config: pytest.Config) -> None:
    """Adds the plugin to a run: a stopwatch in each process, and the table where the results come together."""
    stopwatch = Stopwatch(config)
    config.pluginmanager.register(stopwatch, "stopwatch")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Times(config, stopwatch), "times")
