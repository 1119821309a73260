"""The callers' sockets that an agent holds: bound, given by systemd, or got from a router that runs."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from loradeck_agent.host import listening
from loradeck_agent.host.listening import Giver, Listening, bind

STARTED = """
import json, os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
from loradeck_agent.host.listening import from_systemd
found = [held.getsockname() for held in from_systemd()]
print(json.dumps([found, sorted(name for name in os.environ if name.startswith("LISTEN_"))]))
"""


@pytest.fixture
def giver() -> Iterator[Path]:
    """A short path: a Unix socket's may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        yield Path(folder) / "listening.sock"


def free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def connects(listen: str) -> bool:
    """Whether the kernel takes a connection there."""
    host, _, port = listen.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_what_is_bound_stays_bound_and_takes_connections_until_it_is_let_go(giver: Path) -> None:
    held = Listening(listen := free(), giver)
    assert held.files() == held.files()
    assert connects(listen)
    held.close()
    assert not connects(listen)


def test_another_address_in_the_configuration_is_bound_anew(giver: Path) -> None:
    first = Listening(before := free(), giver)
    first.files()
    first._listen = now = free()
    first.files()
    assert (connects(before), connects(now)) == (False, True)
    first.close()


def test_an_address_that_the_machine_lacks_beside_one_that_it_has_is_passed_over_for_good(
    giver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(free().rpartition(":")[2])
    monkeypatch.setattr(
        listening,
        "_addresses",
        lambda _: [(socket.AF_INET, ("192.0.2.1", port)), (socket.AF_INET, ("127.0.0.1", port))],
    )
    held = Listening("both:1", giver)
    assert held.files() == held.files(), "what could be bound is not given up for what could not"
    held.close()
    monkeypatch.setattr(listening, "_addresses", lambda _: [(socket.AF_INET, ("192.0.2.1", port))])
    with pytest.raises(OSError, match="assign") as fault:
        bind("other:1")
    assert fault.value.errno == errno.EADDRNOTAVAIL


async def test_a_router_that_runs_gives_its_sockets_and_they_outlive_it(giver: Path) -> None:
    (theirs,) = bind(listen := free())
    server = await asyncio.get_running_loop().create_unix_server(lambda: Giver([theirs.fileno()]), str(giver))
    mine = Listening(listen, giver)
    await mine.adopt()
    server.close()
    theirs.close()
    assert connects(listen)
    (file,) = mine.files()
    assert not os.get_inheritable(file), "engines and executors do not get it"
    mine.close()


async def test_a_router_of_a_version_that_gives_nothing_is_said_and_harms_nothing(
    giver: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await Listening(free(), giver).adopt()
    assert "the router's sockets are its own" in caplog.text


@pytest.mark.parametrize(("another", "count"), [(0, 1), (1, 0)])
def test_systemds_sockets_are_taken_by_the_process_that_they_are_for(another: int, count: int) -> None:
    """As systemd starts it: the socket is file 3."""
    (given,) = bind(listen := free())
    command = f"exec 3<&{given.fileno()}; exec {sys.executable} -c '{STARTED}' {another}"
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "router"},
        pass_fds=[given.fileno()],
        capture_output=True,
        text=True,
        check=True,
    )
    found, left = json.loads(done.stdout)
    assert found == [["127.0.0.1", int(listen.rpartition(":")[2])]] * count
    assert left == [], "what it starts is not told of them"
    given.close()
