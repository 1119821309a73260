"""The program that runs a launched vLLM, alone: servers that do not end, that leave something, that never start."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loradeck_agent.host.state_folder import holder_of, start_time
from loradeck_agent.serving.vllm.launcher import plugin_variables

IMPATIENT = (
    "import sys; from loradeck_agent.serving.vllm import launcher as launch; launch.GRACE_S = launch.LEFT_S = 0.3; "
    "sys.exit(launch.main(sys.argv[1:]))"
)
STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
pathlib.Path("child").write_text(str(child.pid))
time.sleep(600)
"""

Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch(folder: Path) -> Iterator[Launch]:
    """Starts the launcher over a Python program in the place of vLLM."""
    made: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", IMPATIENT, "--state", str(folder), "--", *command]
        made.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True))
        return made[-1]

    yield start
    for process in made:
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def child_of(folder: Path) -> int:
    path = folder / "child"
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    return int(path.read_text())


def test_a_server_that_ignores_sigterm_is_killed_with_what_it_started(folder: Path, launch: Launch) -> None:
    launcher = launch(sys.executable, "-c", STUBBORN)
    child = child_of(folder)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == 0, "it was asked to end"
    assert start_time(child) is None
    assert holder_of(folder / "engine.lock") is None


def test_what_a_dead_server_left_is_ended_though_it_ignores_sigterm(folder: Path, launch: Launch) -> None:
    launcher = launch(sys.executable, "-c", STUBBORN.replace("time.sleep(600)\n", "sys.exit(7)\n"))
    child = child_of(folder)
    assert launcher.wait(60) == 7, "the server's own exit status"
    assert start_time(child) is None


def test_a_second_one_on_the_same_folder_is_refused(folder: Path, launch: Launch) -> None:
    first = launch(sys.executable, "-c", STUBBORN)
    child = child_of(folder)
    second = launch(sys.executable, "-c", STUBBORN)
    assert second.wait(60) == 1
    assert second.stderr is not None
    assert f"pid {first.pid}" in second.stderr.read()
    assert first.poll() is None
    assert start_time(child) is not None


def test_a_server_that_cannot_be_started_is_said(folder: Path, launch: Launch) -> None:
    launcher = launch(str(folder / "no-python"), "-m", "vllm")
    assert launcher.wait(60) == 1
    assert launcher.stderr is not None
    assert "no-python" in launcher.stderr.read()
    assert holder_of(folder / "engine.lock") is None


PLUGINS = {
    "loradeck": "[vllm.general_plugins]\nloradeck = m:f\n[vllm.endpoint_plugins]\nloradeck = m:f\n",
    "platform": "[vllm.platform_plugins]\nnpu = m:f\n[vllm.general_plugins]\nnpu_ops = m:f\n",
    "routes": "[vllm.endpoint_plugins]\nroutes = m:f\n",
    "both": "[vllm.endpoint_plugins]\nnpu = m:f\n",
}


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        (("loradeck",), "loradeck"),
        (("loradeck", "platform", "routes"), "loradeck,npu,npu_ops"),  # and not `routes`, which vLLM leaves closed
        (("platform",), None),
        (("loradeck", "platform", "both"), None),  # it would open the other one's routes
        ((), None),
    ],
)
def test_our_plugin_is_chosen_where_it_is_installed_and_nothing_else_changes(
    tmp_path: Path, installed: tuple[str, ...], chosen: str | None
) -> None:
    for name in installed:
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(PLUGINS[name])
    environment = {"PYTHONPATH": str(tmp_path)}
    assert plugin_variables(sys.executable, environment).get("VLLM_PLUGINS") == chosen
    assert plugin_variables(sys.executable, environment | {"VLLM_PLUGINS": "x"}) == {}
