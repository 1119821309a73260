"""Logs of processes that run for months: bounded while they are written to."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from loradeck_agent.host import process
from loradeck_agent.host.process import trim
from loradeck_agent.host.supervisor import Program, Supervised

HOLDS_ITS_LOCK_AND_PRINTS = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
for number in range(10**9):
    print(f"line {number}", flush=True)
    time.sleep(0.0002)
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOG_BYTES", 1000)
    monkeypatch.setattr(process, "LOOK_S", 0.01)


def test_a_long_log_keeps_its_newest_lines_and_its_writer_goes_on_in_an_empty_one(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with log.open("a") as writer:
        print(*range(1000), file=writer, flush=True)
        trim(log)
        kept = tmp_path / "engine.log.1"
        assert (log.stat().st_size, kept.stat().st_size) == (0, 1000)
        assert kept.read_text().endswith("998 999\n")
        assert kept.stat().st_mode & 0o777 == 0o600
        print("goes on", file=writer, flush=True)
    assert log.read_text() == "goes on\n"
    trim(log)
    assert log.read_text() == "goes on\n"


def test_a_log_is_emptied_also_where_its_end_cannot_be_kept(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_bytes(b"x" * 1001)
    (tmp_path / "engine.log.1").mkdir()  # as good as a disk without room: the copy is refused
    trim(log)
    assert log.stat().st_size == 0


def test_a_log_that_is_not_there_yet_is_none(tmp_path: Path) -> None:
    trim(tmp_path / "engine.log")
    assert list(tmp_path.iterdir()) == []


async def test_a_supervised_process_fills_no_disk_while_it_runs(tmp_path: Path) -> None:
    lock, log = tmp_path / "lock", tmp_path / "engine.log"
    argv = (sys.executable, "-c", HOLDS_ITS_LOCK_AND_PRINTS, str(lock))

    async def answers() -> str | None:
        return "boot"

    came = list[bool]()

    async def came_up(boot: str, adopted: bool) -> None:
        came.append(adopted)

    async def went_down() -> None: ...

    process = Supervised(Program("engine", argv, lock, log, 10.0), probe=answers, came_up=came_up, went_down=went_down)
    running = asyncio.create_task(process.run())
    try:
        deadline, emptied = time.monotonic() + 60, 0
        while emptied < 3:
            before = log.read_text()[:20] if log.exists() else ""
            await asyncio.sleep(0.02)
            emptied += bool(before) and log.read_text()[:20] != before
            assert time.monotonic() < deadline
        assert came == [False], "it was started once"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await process.end(5.0)
