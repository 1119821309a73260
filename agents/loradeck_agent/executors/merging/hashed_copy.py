"""Copying of one file to another with changes on the way, both sides hashed while they pass.

Hashing and writing take longer than most sums and release the interpreter lock, so each has a thread of its own.
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


class HashedCopy:
    """Reads `source` front to back and writes the bytes it is given to the new file `target`, hashing both.

    Reading is hashed, and writing done and hashed, on threads that lag at most one piece behind the caller, so memory
    holds four pieces at most. A piece must not be changed after `take` returned it or `put` received it.

    Raises: OSError: the disk refused a write; the error may belong to an earlier piece.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._name = source.name
        self._source = source.open("rb", buffering=0)
        self._target = target.open("xb", buffering=0)
        self._before, self._after = hashlib.sha256(), hashlib.sha256()
        self._taken, self._put = _Lagging(), _Lagging()

    def __enter__(self) -> HashedCopy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._taken.close()
        self._put.close()
        self._source.close()
        self._target.close()

    def take(self, size: int) -> bytearray:
        """Reads the source's next `size` bytes. Raises: BadArtifact: `truncated_safetensors`: it ends before."""
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
        """Appends a piece to the target."""
        self._put.do(lambda: self._write(memoryview(data)))

    def copy(self, size: int, *, keep: bool = True) -> None:
        """Copies the next `size` bytes of the source to the target unchanged, or without `keep` passes over them."""
        while size:
            data = self.take(min(CHUNK, size))
            if keep:
                self.put(data)
            size -= len(data)

    def finish(self) -> tuple[FileEntry, FileEntry]:
        """Makes the target durable and returns the entries of source and target, both under the source's name."""
        self._put.wait()
        os.fsync(self._target.fileno())
        self._taken.wait()
        return (
            FileEntry(path=self._name, size=self._source.tell(), sha256=self._before.hexdigest()),
            FileEntry(path=self._name, size=self._target.tell(), sha256=self._after.hexdigest()),
        )

    def _write(self, data: memoryview) -> None:
        left = data
        while left:
            left = left[self._target.write(left) :]
        self._after.update(data)


class _Lagging:
    """Runs pieces of work in order on a thread of its own, at most one piece behind the caller."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._piece: Future[None] | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Submits a piece of work after waiting for the one before; raises the error of the one before."""
        self.wait()
        self._piece = self._thread.submit(work)

    def wait(self) -> None:
        """Waits until no piece is left; raises the error of the last one."""
        piece, self._piece = self._piece, None
        if piece is not None:
            piece.result()

    def close(self) -> None:
        """Ends the thread after the piece in hand."""
        self._thread.shutdown()
