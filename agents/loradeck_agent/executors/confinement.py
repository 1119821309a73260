"""Keeps an executor out of its agent's folders and secrets, but for what its spec names: by Landlock, of the kernel.

All executors of a node run as one user, and what one tenant's may read the next one's may read as well. So each gives
up, before it reads a row, every file of the agent's that is not for it. Neither it nor what it starts can undo that.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

from loradeck.schemas.executor import ExecutorSpec

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls: the same ones on every architecture."""

_VERSION, _SIGNALS = 3, 6
"""The Landlock of Linux 6.2, the first that forbids truncating files; of 6.12, the first that forbids signals."""

_ALL, _READ, _OF_FILES = (1 << 15) - 1, 0b1101, 1 << 14 | 0b111
"""Rights: all of version 3; to execute and to read files and folders; those that there are of a file."""

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def confine(spec: ExecutorSpec) -> str:
    """Gives up what `spec.closed` names, for good, but for the spec's own folders. Returns why not; '': it is done.

    All that stands beside the way to what is closed stays open, but in the folders on that way nothing can be made any
    more: where HOME or TMPDIR is one or closed, the attempt's own takes its place. Call it before there are threads.
    """
    try:
        if (version := _call(_CREATE_RULESET, None, 0, 1)) < _VERSION:
            return f"the kernel has Landlock {version}; {_VERSION} is needed, of Linux 6.2"
        wanted = _Ruleset(_ALL, 0, 2 if version >= _SIGNALS else 0)
        rules = _call(_CREATE_RULESET, ctypes.byref(wanted), ctypes.sizeof(wanted), 0)
        closed = {Path(path).resolve() for path in spec.closed}
        way = {up for path in closed for up in path.parents if not closed & {up, *up.parents}}
        own = str(Path(spec.out).parent)
        for folder in way:
            with contextlib.suppress(OSError):  # of one that cannot be listed only what is named below stays open
                for beside in folder.iterdir():
                    if beside not in closed | way and not beside.is_symlink():  # it would open what it leads to
                        _allow(rules, beside, _ALL)
        for path in filter(None, (own, spec.checkpoints)):
            _allow(rules, path, _ALL)
        harnesses = (path for python, tasks in spec.harnesses.values() for path in (Path(python).parent.parent, tasks))
        for read in (spec.base, *spec.inputs.values(), *harnesses, sys.prefix, sys.base_prefix, *sys.path):
            if Path(read).resolve() not in way:  # else what is closed in it would be open with it
                _allow(rules, read, _READ)
        for name, default in (("HOME", "/"), ("TMPDIR", "/tmp")):
            if (place := Path(os.environ.get(name, default)).resolve()) in way or closed & {place, *place.parents}:
                os.environ[name] = own
        _LIBC.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, without which the next call is refused
        _call(_RESTRICT_SELF, rules, 0)
        os.close(rules)
    except OSError as error:
        return f"Landlock cannot be used: {error}"
    return ""


def _allow(rules: int, path: Path | str, allowed: int) -> None:
    with contextlib.suppress(OSError):  # it is gone, may not be passed anyway, or is no file of a disk
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = _Beneath(allowed if os.path.isdir(path) else allowed & _OF_FILES, fd)
            _call(_ADD_RULE, rules, 1, ctypes.byref(rule), 0)
        finally:
            os.close(fd)


def _call(number: int, *args: object) -> int:
    if (result := int(_LIBC.syscall(number, *args))) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
