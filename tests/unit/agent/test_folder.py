"""Locks say who runs; a pid in a file does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.fleets.waiting import PATIENCE_S

from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder, holder_of, locked, start_time, write_durably
from loradeck_agent.host.supervisor import end_process

HOLD = """
import sys, signal
from pathlib import Path
from loradeck_agent.host.state_folder import locked
{extra}
with locked(Path(sys.argv[1]), "engine"):
    print("held", flush=True)
    signal.pause()
"""


def hold(path: Path, extra: str = "") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(extra=extra), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_holder_of_a_lock_is_found_and_is_nobody_once_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "engine.lock"
    assert holder_of(path) is None
    process = hold(path)
    assert holder_of(path) == process.pid
    process.kill()
    process.wait()
    assert path.read_text() == f"{process.pid}\n"
    assert holder_of(path) is None


def test_a_second_holder_is_refused_with_the_firsts_pid(tmp_path: Path) -> None:
    path = tmp_path / "engine.lock"
    process = hold(path)
    try:
        with pytest.raises(AgentError) as error, locked(path, "engine"):
            pass
        assert error.value.code == "already_running"
        assert f"pid {process.pid}" in error.value.detail
    finally:
        process.kill()
        process.wait()


def test_a_file_that_is_merely_open_has_no_holder(tmp_path: Path) -> None:
    path = tmp_path / "engine.lock"
    with path.open("w") as file:
        file.write(f"{os.getpid()}\n")
        assert holder_of(path) is None


def test_a_process_ends_on_sigterm_and_is_killed_where_it_will_not(tmp_path: Path) -> None:
    polite = hold(tmp_path / "a")
    assert end_process(polite.pid, "engine", grace_s=PATIENCE_S) == "ended"
    assert polite.wait() == -signal.SIGTERM
    stubborn = hold(tmp_path / "b", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert end_process(stubborn.pid, "engine", grace_s=0.2) == "killed"
    assert stubborn.wait() == -signal.SIGKILL
    assert end_process(stubborn.pid, "engine", grace_s=0.2) == "was gone"


def test_a_pid_with_its_start_time_names_one_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    began = start_time(process.pid)
    assert began is not None
    assert start_time(process.pid) == began
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(process.pid) is None, "one that has ended and is not waited for does not run"
    process.wait()
    assert start_time(process.pid) is None


def test_folders_are_private_and_open_ones_are_closed(tmp_path: Path) -> None:
    root = tmp_path / "s"
    root.mkdir(mode=0o755)
    folder = StateFolder(root)
    folder.make()
    for path in (root, folder.router, folder.releases, folder.jobs, folder.inputs, folder.canaries):
        assert path.stat().st_mode & 0o777 == 0o700, path


def test_a_state_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AgentError, match="state_unusable"):
        StateFolder(tmp_path / "file" / "s").make()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_durably(path, b"one")

    def broken(_: int) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="no"):
        write_durably(path, b"two")
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_of_two_threads_that_replace_one_file_each_leaves_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is given up goes on in its thread, and the next one writes the same file."""
    path, written = tmp_path / "f", os.write
    other = threading.Thread(target=write_durably, args=(path, b"the other"))

    def after_the_other(fd: int, data: bytes) -> int:
        if other.ident is None:
            other.start()
            other.join(60)
            assert path.read_bytes() == b"the other"
        return written(fd, data)

    monkeypatch.setattr(os, "write", after_the_other)
    write_durably(path, b"one")
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
