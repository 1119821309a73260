"""Bytes on their way from one file to another, hashed on both sides beside whatever is done to them in between.

Hashing and writing take longer than most sums, and need nothing of the interpreter: each has a thread of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from loradeck.artifacts import BadArtifact
from loradeck.schemas.manifest import FileEntry

CHUNK = 4 << 20


class Passing:
    """Reads `source` front to back, and writes what it is given to the new file `target`.

    What was taken is hashed, and what was put is written and hashed, each at most one piece behind the caller: so
    memory holds four pieces at most. Neither may be changed after it was taken or put.

    Raises:
        OSError: the disk refused; also of a piece before the one in hand.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._name = source.name
        self._source = source.open("rb", buffering=0)
        self._target = target.open("xb", buffering=0)
        self._before, self._after = hashlib.sha256(), hashlib.sha256()
        self._taken, self._put = _Behind(), _Behind()

    def __enter__(self) -> Passing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._taken.close()
        self._put.close()
        self._source.close()
        self._target.close()

    def take(self, size: int) -> bytearray:
        """The next bytes of the source. Raises: BadArtifact `truncated_safetensors`."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._source.readinto(view)
            if not count:
                raise BadArtifact("truncated_safetensors", "a file of the base became shorter while it was read")
            view = view[count:]
        self._taken.do(lambda: self._before.update(data))
        return data

    def put(self, data: bytearray | memoryview) -> None:
        """Appends to the target."""
        self._put.do(lambda: self._write(memoryview(data)))

    def copy(self, size: int) -> None:
        """Takes and puts so many bytes."""
        while size:
            data = self.take(min(CHUNK, size))
            self.put(data)
            size -= len(data)

    def finish(self) -> tuple[FileEntry, FileEntry]:
        """Makes the target durable. Returns source and target, each under the source's name."""
        self._put.settle()
        os.fsync(self._target.fileno())
        self._taken.settle()
        return (
            FileEntry(path=self._name, size=self._source.tell(), sha256=self._before.hexdigest()),
            FileEntry(path=self._name, size=self._target.tell(), sha256=self._after.hexdigest()),
        )

    def _write(self, data: memoryview) -> None:
        left = data
        while left:
            left = left[self._target.write(left) :]
        self._after.update(data)


class _Behind:
    """Does one piece of work after the other on a thread of its own, at most one behind whoever hands them over."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._piece: Future[None] | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Raises: what the piece before raised."""
        self.settle()
        self._piece = self._thread.submit(work)

    def settle(self) -> None:
        """Until nothing is left to do. Raises: what the last piece raised."""
        piece, self._piece = self._piece, None
        if piece is not None:
            piece.result()

    def close(self) -> None:
        """Ends the thread, with the piece it has in hand."""
        self._thread.shutdown()
