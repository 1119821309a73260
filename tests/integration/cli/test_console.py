"""The console as `loradeck` starts it, and the feed it lives on, against a real hub."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time

import pyte
import pytest
from tests.fleets.processes.hub import LORADECK
from tests.integration.cli.conftest import Desk

from loradeck.client.config import Context
from loradeck.client.feed import Feed, FeedLink, LinkChange
from loradeck.client.state_list import Listed
from loradeck.schemas.feed import FeedEvents, FeedTenants
from loradeck.schemas.log import EventKind
from loradeck.schemas.moves import HoldRequest


async def test_the_feed_lists_and_then_says_what_happens(desk: Desk, tenant: str) -> None:
    seen: list[str] = []
    feed = Feed(Context(name="lab", socket=desk.socket))
    async with asyncio.timeout(60), desk.api() as api, contextlib.aclosing(feed.follow()) as items:
        async for item in items:
            match item:
                case LinkChange():
                    seen.append(item.state)
                case Listed():
                    seen.append("listed")
                    row = next(row for row in item.tenants if row.tenant == tenant)
                    request = HoldRequest(
                        held=True, expected_generation=row.pointer.generation, idempotency_key="k" * 32
                    )
                    await api.send(tenant, "production", request)
                case FeedEvents() if item.events[-1].kind is EventKind.HOLD:
                    seen.append("event")
                case FeedTenants() if any(row.tenant == tenant and row.pointer.held for row in item.rows):
                    seen.append("row")
            if {"event", "row"} <= set(seen):
                break
    assert seen[:3] == [FeedLink.CONNECTING, FeedLink.UP, "listed"]


@pytest.mark.parametrize(("ending", "status"), [("q", 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_loradeck_open_starts_on_the_tenants_row_and_leaves_with_the_consoles_status(
    desk: Desk, tenant: str, ending: str | signal.Signals, status: int
) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [LORADECK, "open", tenant],
        env=desk.env | {"TERM": "xterm-256color"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    watch = threading.Timer(60, process.kill)
    watch.start()
    screen = pyte.Screen(100, 30)
    stream = pyte.ByteStream(screen)
    try:
        wait_for_screen(master, stream, lambda: f"{tenant}/production" in "\n".join(screen.display))
        if isinstance(ending, signal.Signals):
            process.send_signal(ending)
        else:
            os.write(master, ending.encode())
        wait_for_screen(master, stream, lambda: process.poll() is not None)
        assert process.wait(60) == status
    finally:
        watch.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)


def wait_for_screen(master: int, stream: pyte.ByteStream, condition: object) -> None:
    """Feeds the emulator until a condition is true, and answers a terminal's questions as one would."""
    assert callable(condition)
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "\n".join(stream.listener.display)  # type: ignore[union-attr]
        if select.select([master], [], [], 0.05)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other end is gone
                return
            if b"\x1b[6n" in data:
                os.write(master, b"\x1b[1;1R" * data.count(b"\x1b[6n"))
            stream.feed(data)
