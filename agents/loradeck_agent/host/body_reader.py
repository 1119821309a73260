"""Reads bodies of requests: large ones in a child process, so that nobody else waits for them.

Python reads 4 MB of JSON in up to half a second, and holds its interpreter's lock meanwhile: in a thread of this
process it would stop everybody's answers as well. `python -m loradeck_agent.host.body_reader MODULE:FUNCTION` is the
child. It ends with its input.
"""

import asyncio
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

LARGE = 64 * 1024
"""Bytes from which on a body is read in the child; a smaller one takes a millisecond or two."""

DEADLINE_S = 20.0
"""How long one body may take. The child is ended then."""

DEPTH = 64
"""How deep objects and lists may stand in each other. Readers of JSON give up near 1,000, each at another depth."""


_CONTAINERS = (dict, list)


class BodyUnread(Exception):
    """The child did not come to an end with a body."""


def too_deep(raw: bytes, document: Any) -> bool:
    """Tells whether objects and lists are nested more than DEPTH deep in a JSON document. `raw` is its text."""
    if raw.count(b"[") + raw.count(b"{") <= DEPTH:
        return False
    level = [document]
    for _ in range(DEPTH + 1):
        level = [outer for outer in level if isinstance(outer, _CONTAINERS)]
        if not level:
            return False
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return True


class BodyReader:
    """Calls a function with bodies and gives its results, one large body at a time.

    `read`: a function of a module, which never raises. The child imports it by its name.
    """

    def __init__(self, read: Callable[[bytes], bytes]) -> None:
        self._read = read
        self._turn = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None

    async def read(self, raw: bytes) -> bytes:
        """Calls the function with a body, in the child where the body is large, and returns its result.

        Raises: BodyUnread: it took longer than DEADLINE_S, or the child ended over it.
        """
        if len(raw) < LARGE:
            return self._read(raw)
        await self._turn.acquire()
        conversation = asyncio.get_running_loop().create_task(self._converse(raw))
        conversation.add_done_callback(self._over)
        return await asyncio.shield(conversation)  # a caller that leaves must not leave half a body with the child

    def _over(self, conversation: asyncio.Task[bytes]) -> None:
        self._turn.release()
        if not conversation.cancelled() and (error := conversation.exception()) is not None:
            log.warning("a body could not be read: %s", error)

    async def _converse(self, raw: bytes) -> bytes:
        child = self._child or await self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            async with asyncio.timeout(DEADLINE_S):
                child.stdin.write(len(raw).to_bytes(8, "big"))
                child.stdin.write(raw)
                await child.stdin.drain()
                size = int.from_bytes(await child.stdout.readexactly(8), "big")
                return await child.stdout.readexactly(size)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            await self._end()
            raise BodyUnread(f"the reader ended or took longer than {DEADLINE_S:.0f} s") from error

    async def _start(self) -> asyncio.subprocess.Process:
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            f"{self._read.__module__}:{self._read.__qualname__}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        return self._child

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            if child.returncode is None:
                child.kill()
            await child.wait()

    async def close(self) -> None:
        """Ends the child, once it has come to an end with a body that it has."""
        async with self._turn:
            await self._end()


def main(function: str) -> None:
    """Reads bodies from standard input until it ends."""
    os.nice(5)  # callers first
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the parent's terminal is the parent's to handle
    module, _, name = function.partition(":")
    read: Callable[[bytes], bytes] = getattr(importlib.import_module(module), name)
    while head := sys.stdin.buffer.read(8):
        made = read(sys.stdin.buffer.read(int.from_bytes(head, "big")))
        sys.stdout.buffer.write(len(made).to_bytes(8, "big"))
        sys.stdout.buffer.write(made)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
