"""Watches the sampler from the daemon: its last sample, and whether samples still come.

A sampler that is silent past its deadline is stuck in the driver. It is asked to leave (SIGTERM), given a long
grace, and killed last, because killing a client of NVML has frozen a GPU before. It is replaced only once it is
gone, and only once: a replacement that hangs as well stays where it is, and the state stays `hung`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from loradeck.schemas.ids import Wire
from loradeck.schemas.telemetry import Gpu, Host, NvmlState

log = logging.getLogger(__name__)

_PERIOD_S = 0.9
"""CPU time is a difference: over much less than a second it is noise."""

_IDLE = slice(3, 5)
"""Idle and waiting for a disk, among the times of /proc/stat (proc_stat(5))."""

_COUNTED = 8
"""The times after them are of guests, and stand in the first ones already."""


class HostReader:
    """Reads the host at most once in _PERIOD_S, however often it is asked."""

    def __init__(self) -> None:
        self._ticks = _ticks()
        self._read_at = time.monotonic()
        self._last: Host | None = None

    def read(self) -> Host | None:
        """The host's figures; None until a first period has passed."""
        now = time.monotonic()
        if now - self._read_at >= _PERIOD_S:
            self._read_at = now
            (busy, total), self._ticks = self._ticks, _ticks()
            passed = self._ticks[1] - total
            memory_total, available = _memory()
            self._last = Host(
                cpu_percent=round(100 * (self._ticks[0] - busy) / passed, 1) if passed > 0 else 0.0,
                memory_used=memory_total - available,
                memory_total=memory_total,
                load1=os.getloadavg()[0],
            )
        return self._last


def _ticks() -> tuple[int, int]:
    """Returns the clock ticks since boot in which the CPUs were busy, and all of them."""
    times = [int(time) for time in Path("/proc/stat").read_text().partition("\n")[0].split()[1 : _COUNTED + 1]]
    return sum(times) - sum(times[_IDLE]), sum(times)


def _memory() -> tuple[int, int]:
    """Returns the bytes of memory that there are, and those that are available."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kb = {words[0]: int(words[1]) for words in lines}
    return kb["MemTotal:"] * 1024, kb["MemAvailable:"] * 1024


_LINE_CAP = 2**20


class Sample(Wire):
    """One line of the sampler. `detail`: why the state is not ok, for the log."""

    state: NvmlState
    detail: str = ""
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Seen:
    """State of NVML, the GPUs and the host, as last sampled."""

    nvml: NvmlState
    gpus: tuple[Gpu, ...]
    host: Host | None


@dataclass(frozen=True)
class Patience:
    """Seconds. `start`: until a sampler's first line; `line`: from one line to the next, monotonic.

    `grace`: from SIGTERM to SIGKILL; `steady`: of lines after which an earlier hang is forgotten; `restart`:
    before a sampler is started again; `leave`: for it to go when the daemon does.
    """

    period: float = 1.0
    start: float = 60.0
    line: float = 15.0
    grace: float = 60.0
    steady: float = 600.0
    restart: float = 10.0
    leave: float = 2.0


class Telemetry:
    """Runs one sampler at a time."""

    def __init__(self, argv: Sequence[str] | None = None, patience: Patience | None = None) -> None:
        """`argv`: the sampler's command; this interpreter's `loradeck_agent.telemetry.sampler` by default."""
        self._argv = tuple(argv or (sys.executable, "-m", "loradeck_agent.telemetry.sampler"))
        self._patience = patience or Patience()
        self._host = HostReader()
        self._state = NvmlState.STARTING
        self._gpus: tuple[Gpu, ...] = ()
        self._child: _Child | None = None
        self._quiet = False
        self._resumed = asyncio.Event()
        self.started = 0
        """Samplers started so far."""

    def current(self) -> tuple[NvmlState, tuple[Gpu, ...]]:
        """The state of NVML, and the GPUs as last sampled; those that are not being sampled have no figures."""
        return self._state, self._gpus

    def snapshot(self) -> Seen:
        """GPUs and host as last sampled."""
        return Seen(self._state, self._gpus, self._host.read())

    async def run(self) -> None:
        """Until cancelled; the sampler is then asked to leave, and never killed: it goes when its call returns."""
        hangs = 0
        try:
            while True:
                if self._quiet:
                    self._resumed.clear()
                    await self._resumed.wait()
                hung, steady = await self._one_life()
                if hung:
                    hangs = 1 if steady else hangs + 1
                if hangs > 1:
                    log.error("the sampler hung again; it is not replaced a second time")
                    self._resumed.clear()
                    await self._resumed.wait()
                    hangs = 0
                elif not self._quiet:
                    await asyncio.sleep(self._patience.restart)
        finally:
            if self._child is not None:
                self._child.terminate()
                await self._child.ended_within(self._patience.leave)
                self._child.let_go()

    async def quiesce(self) -> bool:
        """Lets go of the driver, for a drain or a reset, until `resume`.

        Returns:
            Whether the sampler is gone, and its handles with it. False: it is stuck in the driver.
        """
        self._quiet = True
        if self._child is None:
            return True
        self._child.terminate()
        return await self._child.ended_within(self._patience.grace)

    def resume(self) -> None:
        """Samples again, after a `quiesce` or after a replacement that hung."""
        self._quiet = False
        self._resumed.set()

    # ---- one sampler -----------------------------------------------------------------------------------------

    async def _one_life(self) -> tuple[bool, bool]:
        """From exec to exit. Whether it hung, and whether it had been well for long before."""
        patience = self._patience
        known = json.dumps([gpu.model_dump(include={"index", "uuid", "name"}) for gpu in self._gpus])
        argv = (*self._argv, "--period", str(patience.period), "--inventory", known)
        child = self._child = await _Child.start(argv)
        self.started += 1
        began = time.monotonic()
        deadline = patience.start
        while True:
            try:
                line = await child.line(deadline)
            except TimeoutError:
                break
            if not line:
                await child.ended_within(None)
                self._child = None
                self._lose_sight(NvmlState.STARTING if self._quiet else NvmlState.FAILED)
                if not self._quiet:
                    log.error("the sampler ended with %s", child.returncode)
                return False, False
            self._take(line)
            deadline = patience.line
        self._lose_sight(NvmlState.HUNG)
        log.error("the sampler has written nothing for %.0f s: NVML does not return", deadline)
        await self._end(child)
        return True, time.monotonic() - began > patience.steady

    async def _end(self, child: _Child) -> None:
        """Sees a hung sampler off. Does not return before it is gone: two never hold the driver."""
        child.terminate()
        if not await child.ended_within(self._patience.grace):
            log.error("the sampler (pid %d) is killed: it did not leave within %.0f s", child.pid, self._patience.grace)
            child.kill()
            await child.ended_within(None)
        self._child = None

    def _take(self, line: bytes) -> None:
        try:
            sample = Sample.model_validate_json(line)
        except ValidationError as bad:
            log.error("the sampler wrote a line that is none: %s", bad)
            return
        if sample.state is not self._state:
            log.info("NVML is %s %s", sample.state.value, sample.detail)
        self._state, self._gpus = sample.state, sample.gpus

    def _lose_sight(self, state: NvmlState) -> None:
        """Keeps the GPUs and drops their figures: they may still be there, and are not sampled."""
        self._state = state
        self._gpus = tuple(Gpu(index=g.index, uuid=g.uuid, name=g.name, xids=g.xids) for g in self._gpus)


class _Child:
    """A sampler process. Not asyncio's own kind: that one kills its process when it is closed."""

    def __init__(
        self, process: subprocess.Popen[bytes], lines: asyncio.StreamReader, pipe: asyncio.ReadTransport
    ) -> None:
        self._process = process
        self._lines = lines
        self._pipe = pipe
        self._pidfd = os.pidfd_open(process.pid)
        self._ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @classmethod
    async def start(cls, argv: Sequence[str]) -> _Child:
        process = _spawn(argv)
        lines = asyncio.StreamReader(limit=_LINE_CAP)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), process.stdout
        )
        return cls(process, lines, pipe)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def line(self, deadline_s: float) -> bytes:
        """The next line; empty at the end of its output. Raises: TimeoutError: there was none in time."""
        async with asyncio.timeout(deadline_s):
            return await self._lines.readline()

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    async def ended_within(self, seconds: float | None) -> bool:
        """Tells whether the process is gone; None waits for as long as it takes."""
        done, _ = await asyncio.wait([self._ended], timeout=seconds)
        return bool(done)

    def let_go(self) -> None:
        """Stops watching. A process that is still there ends by itself once it finds nobody reading."""
        self._pipe.close()
        if not self._ended.done():
            self._close_pidfd()

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.done():
            self._process.send_signal(number)

    def _reap(self) -> None:
        self._close_pidfd()
        self._process.wait()
        self._ended.set_result(None)

    def _close_pidfd(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)


def _spawn(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
