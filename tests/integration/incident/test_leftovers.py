"""Whatever happens to the demo, no process, socket or temporary folder of its fleet is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fleets.waiting import PATIENCE_S

import incident
from incident import fleet as fleet_module
from incident import leftovers
from incident.fleet import Fleet, NotStopped

EXAMPLES = Path(next(iter(incident.__path__))).parent
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


def start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """A process that does not end when it is asked to, with a path in the folder among its arguments."""
    command = [sys.executable, "-c", STUBBORN, str(folder / name)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()  # it ignores SIGTERM from here on
    return process


def until_none_is_left(folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while leftovers.processes(folder):
        assert time.monotonic() < deadline, leftovers.processes(folder)
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "fleet"
    root.mkdir()
    yield root
    leftovers.sweep(root)


# -- a stop that fails on one node -----------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["sleep 600", "echo it sits in the kernel >&2; exit 1"])
def test_every_part_is_stopped_though_the_stop_of_one_node_fails_and_the_failure_is_raised(
    folder: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = folder.parent / "bin"
    commands.mkdir()
    stop = commands / "loradeck-agent"
    stop.write_text(f'#!/bin/bash\necho "$3" >> "{folder.parent}/stopped"\n[[ $3 == *gpu-01* ]] || exit 0\n{trouble}\n')
    stop.chmod(0o755)
    monkeypatch.setattr(fleet_module, "BIN", commands)
    monkeypatch.setattr(fleet_module, "STOP_S", 2.0)
    monkeypatch.setattr(fleet_module, "END_S", 0.2)
    monkeypatch.setattr(fleet_module, "FOLLOW_S", 0.2)
    fleet = Fleet(root=folder, base=folder)
    for node in fleet.nodes:
        node.config.touch()
        node.process = start(folder, node.name)
    fleet.hub = start(folder, "hub")
    engine = start(folder, "gpu-01/engine")
    with pytest.raises(NotStopped, match="gpu-01: loradeck-agent stop"):
        fleet.stop()
    assert engine.wait(PATIENCE_S) == -signal.SIGKILL
    assert leftovers.processes(folder) == {}
    assert (folder.parent / "stopped").read_text().count("gpu-02.toml") == 1
    assert (fleet.hub, [node.process for node in fleet.nodes]) == (None, [None, None])


# -- whoever started it is killed ------------------------------------------------------------------------


def test_a_killed_starter_leaves_no_process_no_socket_and_no_temporary_folder(folder: Path) -> None:
    program = f"""
        import subprocess, sys, time
        from pathlib import Path
        from incident import leftovers
        folder = Path({str(folder)!r})
        with leftovers.guard(folder, remove=True):
            command = [sys.executable, "-c", {STUBBORN!r}, str(folder / "engine")]
            engine = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
            engine.stdout.readline()  # before it runs its program it has no arguments by which it is found
            print("up", flush=True)
            time.sleep(600)
    """
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as starter,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"up\n"
        listening.bind(str(folder / "hub.sock"))
        assert len(leftovers.processes(folder)) == 1
        starter.kill()
        until_none_is_left(folder)
    deadline = time.monotonic() + PATIENCE_S
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_left_at_the_end_of_the_block_is_swept_and_the_folder_stays(folder: Path) -> None:
    with leftovers.guard(folder), socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "hub.sock"))
        engine = start(folder, "engine")
    assert engine.wait(PATIENCE_S) == -signal.SIGKILL
    assert [path.name for path in folder.iterdir()] == [leftovers.LOCK]


def test_two_fleets_do_not_share_a_folder(folder: Path) -> None:
    with leftovers.guard(folder), pytest.raises(leftovers.FolderInUse), leftovers.guard(folder):
        pass
    with leftovers.guard(folder):
        pass


def test_a_process_that_the_look_before_could_not_see_yet_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, late = start(folder.parent, "first"), start(folder.parent, "late")
    looks: list[dict[int, str]] = [{first.pid: "first"}, {}, {late.pid: "late"}, {}, {}]
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "processes", lambda _: looks.pop(0))
        killed = leftovers.sweep(folder)
    try:
        assert (killed, looks) == (["first", "late"], [])
        assert (first.wait(PATIENCE_S), late.wait(PATIENCE_S)) == (-signal.SIGKILL, -signal.SIGKILL)
    finally:
        late.kill()
        late.wait()


def test_processes_elsewhere_and_of_other_programs_are_left_alone(folder: Path) -> None:
    elsewhere = start(folder.parent, "fleet-of-another")
    reading = subprocess.Popen(["tail", "-f", "/dev/null", str(folder / "hub.log")], stderr=subprocess.DEVNULL)
    try:
        assert leftovers.sweep(folder) == []
        assert (elsewhere.poll(), reading.poll()) == (None, None)
    finally:
        for process in (elsewhere, reading):
            process.kill()
            process.wait()


# -- the demo is ended by a signal, or by a step that fails ----------------------------------------------

DEMO = """
    import asyncio, signal, subprocess, sys

    # The tests may run where these are ignored (nohup, a job in the background), and a child inherits that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    import incident.__main__ as demo
    from incident.fleet import NotReady, wait_for

    def never() -> bool:
        return False

    async def run(fleet, options, progress, began):
        command = [sys.executable, "-c", {stubborn!r}, str(fleet.root / "engine")]
        engine = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        engine.stdout.readline()
        print("up", flush=True)
        if {fails}:
            raise ExceptionGroup("tasks", [NotReady("the job failed"), NotReady("the job failed")])
        await asyncio.to_thread(wait_for, "never", never, 600, interrupted=fleet._interrupted)

    demo.run = run
    sys.exit(demo.main())
"""


def demo(cache: Path, *, fails: bool = False) -> subprocess.Popen[str]:
    """The demo with a run that starts one process and then waits in a thread, or fails."""
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES), "XDG_CACHE_HOME": str(cache)}
    program = textwrap.dedent(DEMO.format(stubborn=STUBBORN, fails=fails))
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def read_until_up(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line == "up\n":
            return
    raise AssertionError("it ended before it was up")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_in_order_with_a_status_that_names_it(tmp_path: Path, number: signal.Signals) -> None:
    process = demo(tmp_path)
    read_until_up(process)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error
    assert f"interrupted by {number.name}" in out
    assert leftovers.processes(tmp_path) == {}


def test_a_killed_demo_leaves_no_process_and_the_next_one_can_start(tmp_path: Path) -> None:
    process = demo(tmp_path)
    read_until_up(process)
    process.kill()
    process.communicate(timeout=60)
    until_none_is_left(tmp_path)
    again = demo(tmp_path, fails=True)
    again.communicate(timeout=60)
    assert again.returncode == 3


def test_a_step_that_fails_is_inconclusive_with_its_reason_once_and_leaves_nothing(tmp_path: Path) -> None:
    process = demo(tmp_path, fails=True)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 3
    assert error.count("the job failed") == 1
    assert "INCONCLUSIVE" in error
    assert leftovers.processes(tmp_path) == {}
