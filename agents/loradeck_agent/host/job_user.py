"""The user that executors run as, where it is another one than the agent's, which then is root.

Whatever lies in a folder of that user may be a link to a file that is none of its business, or become one at any time.
So the agent opens such files by descriptors that follow no link, takes only plain files that the user owns, and
verifies and keeps copies of its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from loradeck_agent.host.errors import ConfigError

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class JobUser:
    """A user of this host, by its ids. `groups` are all that it is in: a GPU's device may ask for one."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def of(cls, name: str | None) -> JobUser | None:
        """The user of this name; None for None: executors run as the agent's own user.

        Raises: ConfigError: there is no such user, it is root, or the agent is not root and cannot become it.
        """
        if name is None:
            return None
        fix = "correct `user` under [jobs]: a user without rights of its own, made with `useradd --system`"
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            raise ConfigError("job_user", f"this host has no user {name!r}", "", fix) from None
        if found.pw_uid == 0:
            raise ConfigError("job_user", "executors are not to run as root", name, fix)
        if os.geteuid() != 0:
            raise ConfigError("job_user", "only root starts executors as another user", name, "run the agent as root")
        return cls(found.pw_uid, found.pw_gid, tuple(os.getgrouplist(name, found.pw_gid)))

    def give(self, path: Path) -> None:
        """Makes a file or folder of the agent's, with all that is in it, the user's own."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        for _, folders, files, fd in os.fwalk(path) if path.is_dir() else ():
            for name in (*folders, *files):
                os.chown(name, self.uid, self.gid, dir_fd=fd, follow_symlinks=False)

    def may_read(self, path: Path) -> None:
        """Lets the user read a folder of the agent's, which stays the agent's."""
        os.chown(path, -1, self.gid)
        os.chmod(path, 0o550)
        for _, folders, files, fd in os.fwalk(path):
            for name, mode in (*((folder, 0o550) for folder in folders), *((file, 0o440) for file in files)):
                os.chown(name, -1, self.gid, dir_fd=fd, follow_symlinks=False)
                os.chmod(name, mode, dir_fd=fd)

    def may_pass(self, path: Path) -> None:
        """Lets the user through a folder of the agent's to what it knows the name of."""
        os.chown(path, -1, self.gid)
        os.chmod(path, 0o710)


def open_plain(path: Path | str, user: JobUser | None, *, dir_fd: int | None = None) -> BinaryIO:
    """Opens a file that an executor has written, and follows no link to it.

    Raises: OSError: it cannot be read, is no plain file, or is not the user's.
    """
    fd = os.open(path, _READ, dir_fd=dir_fd)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or (user is not None and found.st_uid != user.uid):
        os.close(fd)
        raise PermissionError(1, "it is no plain file of the executor's user", str(path))
    return os.fdopen(fd, "rb")


def take(source: Path, target: Path, user: JobUser) -> None:
    """Copies a folder that an executor has written to one of the agent's own, which must not exist. Blocks.

    Raises: OSError: as `open_plain` says, for anything in it; `target` may then be there in part.
    """
    fd = os.open(source, _READ | os.O_DIRECTORY)
    try:
        _take(fd, target, user)
    finally:
        os.close(fd)


def _take(source: int, target: Path, user: JobUser) -> None:
    target.mkdir(mode=0o700)
    for name in sorted(os.listdir(source)):
        if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
            inner = os.open(name, _READ | os.O_DIRECTORY, dir_fd=source)
            try:
                _take(inner, target / name, user)
            finally:
                os.close(inner)
            continue
        fd = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as copy, open_plain(name, user, dir_fd=source) as file:
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
