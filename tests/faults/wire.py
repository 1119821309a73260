"""A wire between two processes that a test can cut, or have swallow what is sent over it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from enum import StrEnum
from pathlib import Path


class Mode(StrEnum):
    OPEN = "open"
    HOLDS = "holds"  # what is sent waits, and arrives in order once the wire is healed: as TCP does it
    SWALLOWS = "swallows"  # connections stand and are taken, what is sent is gone, and nobody is told
    CUT = "cut"  # connections are reset, and so is every new one


class _Half:
    """What one side sends to the other."""

    def __init__(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._reader = reader
        self._writer = writer

    async def carry(self) -> None:
        while data := await self._reader.read(65536):
            await self._wire.flows()
            if self._wire.mode is Mode.SWALLOWS:
                self._wire.swallowed += len(data)
                continue
            self._writer.write(data)
            await self._writer.drain()


class Wire:
    """A TCP proxy on loopback, in a thread of its own, to a port or a Unix socket. Use as a context manager.

    Attributes:
        taken: connections that were taken.
        swallowed: bytes that nobody got.
    """

    def __init__(self, to: int | Path) -> None:
        self.mode = Mode.OPEN
        self.taken = 0
        self.swallowed = 0
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self._ends: set[asyncio.StreamWriter] = set()
        self._ended = asyncio.Event()
        self._healed = asyncio.Event()

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def hold(self) -> None:
        """From here on nothing arrives, in either direction, until the wire is healed. Then all of it does."""
        self.mode = Mode.HOLDS

    def swallow(self) -> None:
        """From here on nothing arrives, in either direction, and no end is told."""
        self.mode = Mode.SWALLOWS

    def cut(self) -> None:
        """Connections break now; new ones are refused."""
        self.mode = Mode.CUT
        self._reset()

    def heal(self) -> None:
        """Carries again. What lost bytes is reset: no stream goes on with a hole in it."""
        if self.mode is Mode.SWALLOWS:
            self._reset()
        self.mode = Mode.OPEN
        self._loop.call_soon_threadsafe(self._healed.set)

    # ---- in the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._take, sock=self._listener)
        await self._ended.wait()
        server.close()
        for writer in self._ends:
            _abort(writer)
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _reset(self) -> None:
        def reset() -> None:
            for writer in self._ends:
                _abort(writer)

        self._loop.call_soon_threadsafe(reset)

    async def flows(self) -> None:
        """Until the wire no longer holds what is sent."""
        while self.mode is Mode.HOLDS:
            self._healed.clear()
            await self._healed.wait()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._to, Path):
            return await asyncio.open_unix_connection(self._to)
        return await asyncio.open_connection("127.0.0.1", self._to)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        if self.mode is Mode.CUT:
            _abort(writer)
            return
        await self.flows()
        self._ends.add(writer)
        beyond: asyncio.StreamWriter | None = None
        try:
            if self.mode is Mode.SWALLOWS:
                while data := await reader.read(65536):
                    self.swallowed += len(data)
                return
            answers, beyond = await self._connect()
            self._ends.add(beyond)
            halves = [_Half(self, reader, beyond).carry(), _Half(self, answers, writer).carry()]
            tasks = [asyncio.ensure_future(half) for half in halves]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            return  # what it leads to is away, or who was connected has gone: the other end sees its connection end
        finally:
            for end in (writer, beyond):
                if end is not None:
                    self._ends.discard(end)
                    end.close()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with a reset."""
    found: socket.socket | None = writer.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
