"""The reserve on the hub's disk: a file that is given up piece by piece where the disk is full, so that R goes on.

Before that, uploads are refused: they are what fills a disk that artifacts and the database share.
"""

import os
from contextlib import suppress
from pathlib import Path

from loradeck.rules.errors import Refused

DISK_FULL = "disk_full"
"""The problem code of what the full disk refuses."""

MOST_BYTES = 64 << 20
"""Bytes of the reserve, on all but small disks: some ten thousand moves."""

PIECES = 8
"""Parts in which it is given up: whatever else fills the disk takes a part of them, and not all at once."""


class DiskReserve:
    """The file, as far as there was room for it. Used from the store's thread alone; its state is read from any.

    Attributes:
        exhausted: nothing was left of it when the disk last refused a write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        disk = os.statvfs(path.parent)
        self._wanted = min(MOST_BYTES, disk.f_blocks * disk.f_frsize // 64)
        self._piece = max(1, self._wanted // PIECES)
        self._held = path.stat().st_size if path.exists() else 0
        self.exhausted = False

    @property
    def in_use(self) -> bool:
        """Whether a part of it is given up: the disk is full."""
        return self._held < self._wanted

    def give(self) -> bool:
        """Gives up a piece of it. False: nothing is left."""
        self.exhausted = self._held == 0
        if self.exhausted:
            return False
        self._held = max(0, self._held - self._piece)
        os.truncate(self._path, self._held)
        return True

    def make(self) -> None:
        """Takes back what it lacks, and of the disk's free space no more than half."""
        held = min(self._wanted, self._held + self._free() // 2)
        if held - self._held >= min(self._piece, self._wanted - self._held) > 0:
            with suppress(OSError):  # somebody else was quicker: it is tried again
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(file, 0, held)
                finally:
                    os.close(file)
                self._held, self.exhausted = held, False

    def check_upload(self, size: int = 0) -> None:
        """Checks that an upload of `size` bytes leaves four times the reserve. Raises: Refused `disk_full`."""
        if self._free() - size < 4 * self._wanted:
            raise Refused(
                DISK_FULL,
                "the hub's disk is nearly full: what room is left is for moves",
                detail=f"{self._free() >> 20} MiB are free, {4 * self._wanted >> 20} MiB are kept",
                fix="free space on the hub's disk; loradeck hub collect removes files that nothing can go back to",
            )

    def _free(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize
