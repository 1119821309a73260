"""What a service tells systemd, over a socket like systemd's."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from loradeck.systemd.notify import Service


@pytest.fixture(params=["file", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket that hears, and its address as NOTIFY_SOCKET names it."""
    name = f"loradeck-test-{os.getpid()}"
    at, named = (str(tmp_path / "n"),) * 2 if request.param == "file" else (f"\0{name}", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(at)
        made.settimeout(60)
        yield made, named


async def test_it_says_ready_once_feeds_the_watchdog_and_says_that_it_ends(listener: tuple[socket.socket, str]) -> None:
    heard, address = listener
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000", "WATCHDOG_PID": str(os.getpid())}
    service = Service(environment)
    assert environment == {}, "what it starts is not told of systemd"
    assert service.watchdog_s == 0.3
    service.ready()
    service.ready()
    feeding = asyncio.create_task(service.feed())
    said = [heard.recv(100), *[await asyncio.to_thread(heard.recv, 100) for _ in range(2)]]
    feeding.cancel()
    service.stopping()
    said.append(heard.recv(100))
    assert said == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]


async def test_a_watchdog_of_another_process_is_not_fed(listener: tuple[socket.socket, str]) -> None:
    service = Service({"NOTIFY_SOCKET": listener[1], "WATCHDOG_USEC": "300000", "WATCHDOG_PID": "1"})
    assert service.watchdog_s is None
    await service.feed()


async def test_without_systemd_nothing_is_said() -> None:
    service = Service({})
    service.ready()
    service.stopping()
    await service.feed()


def test_a_systemd_that_is_gone_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Service({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert "systemd is not told READY=1" in caplog.text
