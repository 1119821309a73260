"""Hub, agent and router as services of a real systemd: ready, hardened, restarted, and no connection refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.systemd_machine import Machine, NoMachine, machine

from loradeck.systemd import units

HUB, AGENT, SOCKET = f"{units.HUB}.service", f"{units.AGENT}.service", f"{units.ROUTER}.socket"
LORADECK = ("env", "LORADECK_HUB=unix:/var/lib/loradeck-hub/hub.sock", "/opt/loradeck/bin/loradeck")
SCORE = 20
"""Ten times the exposure that `systemd-analyze security` may find."""

AGENT_TOML = """
node = "gpu-01"
hub = "https://127.0.0.1:7400"
token = "join"
state = "/var/lib/loradeck-agent"
[router]
listen = "127.0.0.1:7500"
"""

CALLS = """
import socket, sys, time
refused = answered = 0
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    try:
        with socket.create_connection(("127.0.0.1", 7500), 30) as line:
            line.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            answered += line.recv(4096).startswith(b"HTTP/1.1 200")
    except ConnectionRefusedError:
        refused += 1
    except ConnectionResetError:
        pass  # accepted by the router that was killed
    time.sleep(0.01)
print(refused, answered)
"""


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With hub and agent installed by the commands, and running; the agent has joined."""
    try:
        with machine(tmp_path_factory.mktemp("machine")) as made:
            made.run(
                "/opt/loradeck/bin/loradeck", "hub", "install-service", "--nodes", "127.0.0.1:7400", "--name", "eu"
            )
            started(made, HUB)
            made.write("/etc/loradeck/agent.toml", AGENT_TOML)
            made.run(*LORADECK, "node", "token", "gpu-01", "--out", "/etc/loradeck/join")
            said = made.run("/opt/loradeck/bin/loradeck-agent", "install-service")
            assert "it cannot read /etc/loradeck/join: chown loradeck-agent /etc/loradeck/join" in said
            made.run("chown", units.AGENT, "/etc/loradeck/join")
            started(made, SOCKET, AGENT)
            made.until(lambda: router_pid(made) != 0, "its router runs")
            yield made
    except NoMachine as none:
        if os.environ.get("LORADECK_REQUIRE_SYSTEMD") == "1":
            raise
        pytest.skip(f"no machine that systemd runs: {none}")


def started(on: Machine, *wanted: str) -> None:
    """Starts units, and fails with what the journal has of them where one does not start."""
    try:
        on.run("systemctl", "start", *wanted)
    except AssertionError as failed:
        raise AssertionError(f"{failed}\n{on.journal()}") from None


def router_pid(on: Machine) -> int:
    """Pid of the newest router, as that machine sees it; 0 before there is one."""
    return int(on.run("sh", "-c", "cat /var/lib/loradeck-agent/router/router.lock || echo 0"))


class Calls:
    """Callers who open a connection for each request, for some seconds, beside what the test does."""

    def __init__(self, on: Machine, seconds: float) -> None:
        self.said = ""
        command = (sys.executable, "-c", CALLS, str(seconds))
        self._thread = threading.Thread(target=self._run, args=(on, command))

    def _run(self, on: Machine, command: tuple[str, ...]) -> None:
        self.said = on.run(*command, network_only=True)

    def __enter__(self) -> Calls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    @property
    def counts(self) -> tuple[int, int]:
        """Refused, and answered."""
        refused, answered = self.said.split()
        return int(refused), int(answered)


@pytest.mark.parametrize(("root", "most"), [(False, SCORE), (True, 30)])
def test_the_units_verify_and_their_exposure_is_small(tmp_path: Path, root: bool, most: int) -> None:
    """Two at most; an agent that is root, so that executors run as another user, cannot come below three."""
    if shutil.which("systemd-analyze") is None:
        assert os.environ.get("LORADECK_REQUIRE_SYSTEMD") != "1"
        pytest.skip("there is no systemd-analyze: apt-get install systemd")
    agent = units.agent_files(
        Path("/bin/true"), Path("/etc/a.toml"), Path("/var/lib/a"), "0.0.0.0:7500", as_root=root, read_home=False
    )
    gateway = units.gateway_files(Path("/bin/true"), Path("/etc/g.toml"), Path("/var/lib/g"))
    for file in (*units.hub_files(Path("/bin/true"), Path("/var/lib/h"), ["--nodes", "[::]:7400"]), *agent, *gateway):
        (tmp_path / file.path.name).write_text(file.text)
    for name in (HUB, AGENT):
        found = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={most}", tmp_path / name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr
    written = [tmp_path / name for name in (HUB, AGENT, SOCKET, f"{units.GATEWAY}.service")]
    verified = subprocess.run(["systemd-analyze", "verify", *written], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_both_are_ready_and_run_as_users_of_their_own(booted: Machine) -> None:
    for unit, user in ((HUB, units.HUB), (AGENT, units.AGENT)):
        shown = booted.show(unit, "ActiveState", "SubState", "User", "Type", "UnitFileState", "WatchdogUSec")
        assert shown["ActiveState"] == "active", booted.journal()
        assert (shown["SubState"], shown["User"], shown["Type"]) == ("running", user, "notify")
        assert (shown["UnitFileState"], shown["WatchdogUSec"]) == ("enabled", "30s")
    pid = router_pid(booted)
    assert booted.run("stat", "-c", "%U", f"/proc/{pid}").strip() == units.AGENT
    assert booted.run("stat", "-c", "%a %U", "/var/lib/loradeck-agent").split() == ["700", units.AGENT]


def test_called_again_the_commands_change_nothing(booted: Machine) -> None:
    again = booted.run("/opt/loradeck/bin/loradeck-agent", "install-service")
    assert [line.split(":")[0] for line in again.splitlines()[:3]] == ["unchanged"] * 3


def test_a_router_that_is_killed_refuses_no_connection(booted: Machine) -> None:
    before = router_pid(booted)
    with Calls(booted, 6) as calls:
        time.sleep(1)
        booted.run("kill", "-9", str(before))
        booted.until(lambda: router_pid(booted) != before, "another router runs")
    refused, answered = calls.counts
    assert refused == 0
    assert answered > 50


def test_the_agent_is_restarted_and_its_router_goes_on(booted: Machine) -> None:
    before = router_pid(booted)
    with Calls(booted, 6) as calls:
        time.sleep(1)
        booted.run("systemctl", "restart", AGENT)
    assert booted.show(AGENT, "ActiveState")["ActiveState"] == "active"
    assert router_pid(booted) == before
    assert calls.counts[0] == 0


def test_agent_and_router_are_both_killed_and_no_connection_is_refused(booted: Machine) -> None:
    before = router_pid(booted)
    agent = booted.show(AGENT, "MainPID")["MainPID"]
    with Calls(booted, 8) as calls:
        time.sleep(1)
        booted.run("kill", "-9", agent, str(before))
        booted.until(lambda: router_pid(booted) != before, "another router runs")
    refused, answered = calls.counts
    assert refused == 0
    assert answered > 50


def test_a_hub_that_hangs_is_ended_by_the_watchdog_and_started_again(booted: Machine) -> None:
    booted.write(f"/etc/systemd/system/{HUB}.d/short.conf", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=5\n")
    booted.run("systemctl", "daemon-reload")
    booted.run("systemctl", "restart", HUB)
    before = booted.show(HUB, "MainPID", "NRestarts")
    time.sleep(3)
    assert booted.show(HUB, "MainPID") == {"MainPID": before["MainPID"]}, "one that is well is fed"
    booted.run("kill", "-STOP", before["MainPID"])
    booted.until(lambda: booted.show(HUB, "NRestarts")["NRestarts"] != before["NRestarts"], "it was ended")
    booted.until(lambda: booted.show(HUB, "ActiveState")["ActiveState"] == "active", "it is ready again")
    assert booted.show(HUB, "MainPID") != {"MainPID": before["MainPID"]}
    assert "Watchdog timeout" in booted.journal()


def test_what_engines_do_is_allowed_and_the_rest_of_the_machine_is_not_theirs(booted: Machine) -> None:
    tried(booted)


def test_an_agent_that_is_root_for_its_executors_user_is_ready_too(booted: Machine) -> None:
    booted.write("/etc/loradeck/agent.toml", AGENT_TOML + '[jobs]\nuser = "nobody"\n')
    booted.run("systemctl", "stop", SOCKET, AGENT)
    ended = booted.run("/opt/loradeck/bin/loradeck-agent", "stop")
    assert f"router (pid {router_pid(booted)}) ended" in ended, "it has outlived its agent until now"
    booted.run("/opt/loradeck/bin/loradeck-agent", "install-service")
    booted.run("chown", "-R", "root", "/var/lib/loradeck-agent")
    booted.run("systemctl", "restart", SOCKET, AGENT)
    shown, status = booted.show(AGENT, "ActiveState"), ("/opt/loradeck/bin/loradeck-agent", "status")
    assert shown["ActiveState"] == "active", booted.journal()
    assert "NoNewPrivs:\t1" in booted.run("cat", f"/proc/{booted.show(AGENT, 'MainPID')['MainPID']}/status")
    booted.until(lambda: "router  pid" in booted.run(*status, check=False), "its router runs")
    assert booted.run("stat", "-c", "%a %G", "/var/lib/loradeck-agent/jobs").split() == ["710", "nogroup"]
    tried(booted)


ALLOWED = """
import mmap, os, signal, socket, subprocess, sys
def fails(work):
    try:
        work()
    except OSError:
        return True
    return False
if os.geteuid() == 0:
    child = subprocess.Popen(["sleep", "60"], user="nobody", group="nogroup", extra_groups=[], start_new_session=True)
    assert os.stat(f"/proc/{child.pid}").st_uid == 65534
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()
assert open("/proc/locks").read()
open("/tmp/scratch", "w").close()
open("/var/lib/loradeck-agent/scratch", "w").close()
os.unlink("/var/lib/loradeck-agent/scratch")
assert fails(lambda: open("/etc/scratch", "w"))
assert fails(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
assert fails(lambda: os.open("/dev/kmsg", os.O_RDONLY))
assert os.geteuid() == 0 or fails(lambda: open("/var/lib/loradeck-hub/hub.db"))
"""
"""What engines and executors do under the agent's hardening, and what nobody may."""


def tried(on: Machine) -> None:
    """Runs that as the agent's unit would."""
    unit = on.run("cat", f"/etc/systemd/system/{AGENT}")
    lines = [line for line in unit.splitlines() if not line.startswith(("Restart", "Sockets", "WatchdogSec", "Type"))]
    text = "\n".join(
        "ExecStart=/opt/loradeck/bin/try /opt/try.py" if line.startswith("ExecStart") else line for line in lines
    )
    text = text.replace("[Service]", "[Service]\nType=oneshot")
    on.write("/opt/loradeck/bin/try", '#!/bin/sh\nLD_LIBRARY_PATH=/opt/python/lib exec /opt/loradeck/bin/python "$1"\n')
    on.run("chmod", "755", "/opt/loradeck/bin/try")
    on.write("/opt/try.py", ALLOWED)
    on.write("/etc/systemd/system/try.service", text)
    on.run("systemctl", "daemon-reload")
    on.run("systemctl", "restart", "try", check=False)
    assert on.show("try", "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}, on.journal()


def test_uninstalled_nothing_is_left_but_state_and_users(booted: Machine) -> None:
    booted.run(*LORADECK, "hub", "install-service", "--uninstall")
    assert "could not be found" in booted.run("systemctl", "status", HUB, check=False)
    assert booted.run("test", "-d", "/var/lib/loradeck-hub") == ""
    assert "nothing is installed" in booted.run(*LORADECK, "hub", "install-service", "--uninstall")
