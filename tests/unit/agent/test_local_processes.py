"""The processes of an attempt on this node: one, whichever agent started it, and none left behind."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fleets.waiting import until

from loradeck.schemas.jobs import EvaluateSpec, JobAssignment
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import start_time
from loradeck_agent.jobs import backend
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.backend import Command
from loradeck_agent.jobs.local_processes import LocalProcesses

TAIL = "/usr/bin/tail", "-f"
"""A program that reads a file for ever."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[ExecutorFolder]:
    """The folder of an attempt that was prepared and not begun; what is started in it is ended with the test."""
    found = ExecutorFolder(tmp_path / "j1-1")
    found.write(attempt())
    found.spec.touch()
    yield found
    for pid in running(found):
        os.kill(pid, signal.SIGKILL)


def attempt() -> Attempt:
    spec = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)
    return Attempt(job=JobAssignment(id="j1", lease=1, attempt=1, spec=spec))


def running(folder: ExecutorFolder) -> list[int]:
    """The processes that have the attempt's spec on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(folder.spec) in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def runs(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    monkeypatch.setattr(backend, "executor_argv", lambda kind, spec: (*argv, str(spec)))


async def over(work: LocalProcesses) -> None:
    await until(lambda: not work.look().alive, "the attempt is over", 60)


@pytest.mark.parametrize("when", ["before the next agent looks", "while the next agent launches it"])
async def test_an_agent_that_was_killed_before_it_noted_the_process_leaves_one_that_the_next_follows(
    folder: ExecutorFolder, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    runs(monkeypatch, *TAIL)
    first, early = LocalProcesses(folder, attempt()), LocalProcesses(folder, attempt())
    await first.submit(Command("evaluate", folder.spec))
    folder.write(attempt())  # as the disk was in the moment of the kill
    late = LocalProcesses(folder, attempt()) if when.startswith("before") else early
    assert late.started == when.startswith("before")
    if not late.started:
        await late.submit(Command("evaluate", folder.spec))
    await until(lambda: running(folder) == [first.attempt.pid], "it runs its program")
    assert late.attempt.pid == first.attempt.pid
    assert folder.read() == late.attempt
    assert late.look().alive
    await late.kill()
    await over(first)
    await over(late)


async def test_a_process_that_is_found_on_a_full_disk_is_followed_all_the_same(
    folder: ExecutorFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error here would end the whole agent, which looks for its executors as it begins."""
    runs(monkeypatch, *TAIL)
    first = LocalProcesses(folder, attempt())
    await first.submit(Command("evaluate", folder.spec))

    def full(_: Attempt) -> None:
        raise AgentError("disk_full", "the disk is full", str(folder.path))

    monkeypatch.setattr(folder, "write", full)
    late = LocalProcesses(folder, attempt())
    assert (late.started, late.attempt.pid, late.look().alive) == (True, first.attempt.pid, True)
    await late.kill()
    await over(first)


async def test_a_process_that_was_forked_and_is_nothing_yet_is_waited_for(
    folder: ExecutorFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the lock from its start on, and its command line is still the agent's."""
    runs(monkeypatch, *TAIL)
    monkeypatch.setattr("loradeck_agent.jobs.local_processes.FORKED_S", 0.001)
    begin = f"read go; exec {' '.join(TAIL)} {folder.spec}"
    with (folder.path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        forked = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", begin, stdin=subprocess.PIPE, pass_fds=(lock.fileno(),)
        )
    work = LocalProcesses(folder, attempt())
    begins = asyncio.create_task(work.submit(Command("evaluate", folder.spec)))
    assert await asyncio.wait({begins}, timeout=0) == (set(), {begins})
    assert (running(folder), work.started) == ([], False)
    assert forked.stdin is not None
    forked.stdin.write(b"go\n")
    await asyncio.wait_for(begins, 60)
    await until(lambda: running(folder) == [forked.pid], "it runs its program")
    assert work.attempt.pid == forked.pid
    await work.kill()
    await forked.wait()
    await over(work)


async def test_ranks_of_a_killed_launcher_are_ended_before_the_attempt_counts_as_over(
    folder: ExecutorFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs(monkeypatch, "/bin/sh", "-c", 'setsid tail -f "$0" & setsid tail -f "$0" & wait')
    work = LocalProcesses(folder, attempt())
    await work.submit(Command("evaluate", folder.spec))
    await until(lambda: len(running(folder)) == 3, "ranks", 60)
    pid = work.attempt.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    next_agent = LocalProcesses(folder, work.attempt)
    await until(lambda: start_time(pid) is None, "end of the launcher", 60)
    assert next_agent.look().alive, "they have its GPUs"
    await over(next_agent)
    assert running(folder) == []
    await over(work)
    assert work.look().status == -signal.SIGKILL


async def test_a_kill_ends_the_ranks_with_their_launcher(
    folder: ExecutorFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs(monkeypatch, "/bin/sh", "-c", 'setsid tail -f "$0" & wait')
    work = LocalProcesses(folder, attempt())
    await work.submit(Command("evaluate", folder.spec))
    await until(lambda: len(running(folder)) == 2, "rank", 60)
    await work.kill()
    await over(work)
    assert running(folder) == []


async def test_what_no_signal_ends_is_named_once_and_keeps_its_gpus(
    folder: ExecutorFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process in a call of a driver, which is looked at several times a second for as long as it sits there."""
    work = LocalProcesses(folder, attempt().model_copy(update={"pid": 2**22, "started": 1}))
    there = [[7, 8], [7, 8], [7], [7], []]
    monkeypatch.setattr(work, "_all", lambda number: there.pop(0))
    assert [work.look().alive for _ in range(6)] == [True, True, True, True, False, False]
    assert [record.args[-1] for record in caplog.records] == [[7, 8], [7]]  # type: ignore[index]
