"""A hub in a process of its own, started by the command line that people use."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fleets.host import free_port

from loradeck.client.api import HubApi
from loradeck.client.config import Context


class HubProcess:
    """A hub over a folder, at one address however often it is started."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._options = options
        self._began = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Starts it, and returns its line once it listens."""
        main = "from loradeck.cli import main; main()"
        command = ("-c", main, "hub", "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}")
        self._began = len(self.log())
        with (self.data / "hub.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *command, *self._options, stdout=subprocess.PIPE, stderr=log
            )
        return await self.said(rf"loradeck hub \w+ unix:\S+ {self.url}")

    async def said(self, pattern: str, seconds: float = 60) -> str:
        """The newest line of its present life that a pattern is found in, once there is one."""
        async with asyncio.timeout(seconds):
            while True:
                lines = [line for line in self.log()[self._began :].splitlines() if re.search(pattern, line)]
                if lines:
                    return lines[-1]
                assert self._process is not None
                assert self._process.returncode is None, self.log()
                await asyncio.sleep(0.02)

    def log(self) -> str:
        """What it has written, over all its lives."""
        path = self.data / "hub.log"
        return path.read_text() if path.exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Ends it with a signal, if it was started; returns its exit status."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()

    @asynccontextmanager
    async def api(self) -> AsyncIterator[HubApi]:
        """A client on its own socket."""
        async with HubApi.to(Context(name="test", socket=self.data / "hub.sock")) as api:
            yield api
