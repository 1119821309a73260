"""Child processes of `loradeck.artifacts.child_process`, forked from one that has imported what reads rows
and what makes keys.

Each is a process of its own, as in the product. What it need not do is import for a third of a second.
"""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from loradeck.artifacts import child_process

if TYPE_CHECKING:
    import pytest  # each child would import it, too

IMPORTED = [
    "loradeck.artifacts.rows.dataset_rows",
    "loradeck.hub.data.judged_rows",
    "loradeck_agent.uplink.certificate_request",
    __name__,
]
"""What is imported once, in the process that the children are forked from."""

_context = multiprocessing.get_context("forkserver")


def fork_children(patch: pytest.MonkeyPatch) -> None:
    """Lets `child_process.ask` fork its children until the patch is undone."""
    _context.set_forkserver_preload(IMPORTED)
    how = SimpleNamespace(
        create_subprocess_exec=_forked, subprocess=asyncio.subprocess, CancelledError=asyncio.CancelledError
    )
    patch.setattr(child_process, "asyncio", how)


class _Forked:
    """What `ask` uses of a process that asyncio has started."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: Any = None
        self.returncode: int | None = None

    async def communicate(self, task: bytes) -> tuple[bytes, bytes]:
        ours, theirs = _context.Pipe(duplex=False)
        self._process = _context.Process(target=_run, args=(self._module, task, dict(os.environ), theirs), daemon=True)
        try:
            await asyncio.to_thread(self._process.start)
            theirs.close()
            status, out, err = await asyncio.to_thread(ours.recv)
        except EOFError:
            status, out, err = None, "", ""
        finally:
            ours.close()
        await asyncio.to_thread(self._process.join)
        self.returncode = self._process.exitcode if status is None else status
        return out.encode(), err.encode()

    def kill(self) -> None:
        self._process.kill()


async def _forked(python: str, how: str, module: str, **streams: int) -> _Forked:
    assert (python, how) == (sys.executable, "-m")
    return _Forked(module)


def _run(module: str, task: bytes, environment: dict[str, str], answer: Connection) -> None:
    """The child's side: `python -m module` on a task."""
    os.environ.clear()
    os.environ.update(environment)
    out, err, status = io.StringIO(), io.StringIO(), 0
    sys.stdin = io.TextIOWrapper(io.BytesIO(task))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            status = int(ended.code or 0)
    answer.send((status, out.getvalue(), err.getvalue()))
