"""Disks that are full, have no inode left or are read-only, as real mounts. They need root, and fail without it."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def small_disk(at: Path, size: str = "8m", inodes: int = 400) -> Iterator[Path]:
    """A file system of its own in the folder `at`, of this size."""
    at.mkdir(mode=0o700, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=700", "none", str(at))
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@contextmanager
def read_only(at: Path) -> Iterator[None]:
    """What lies in the folder `at` can be read and not written."""
    _mount("--bind", str(at), str(at))
    try:
        _mount("-o", "remount,bind,ro", str(at))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def fill(disk: Path) -> Path:
    """Takes the disk's last byte. Returns the file that has it; unlinking it makes room again."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return ballast


def take_inodes(disk: Path) -> Path:
    """Takes the disk's last inode. Returns the folder that has them."""
    names = disk / "names"
    names.mkdir()
    with suppress(OSError):
        for n in itertools.count():
            (names / str(n)).touch()
    return names


def _mount(*args: str) -> None:
    done = subprocess.run(["mount", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"this test mounts file systems and needs root for it: {done.stderr}"
