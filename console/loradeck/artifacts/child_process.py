"""Work that takes too long, or imports too much, for a process that answers others: done by a child of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from loradeck.artifacts.errors import BadArtifact

BAD = 65
"""Exit status of a child that has found what is wrong."""


async def ask(module: str, task: BaseModel) -> Any:
    """What `python -m module` answers to a task.

    Raises:
        BadArtifact: what the child has found wrong.
        RuntimeError: the child broke.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await child.communicate(task.model_dump_json().encode())
    except asyncio.CancelledError:
        child.kill()
        raise
    if child.returncode == BAD:
        raise BadArtifact(**json.loads(out))
    if child.returncode != 0:
        last = err.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{module} ended with status {child.returncode}: {' '.join(last)}")
    return json.loads(out)


def answer(work: Callable[[bytes], Any]) -> int:
    """The child's side: the task is on stdin, the answer, or the fault, goes to stdout. Returns the exit status."""
    os.nice(5)  # its parent answers others meanwhile
    try:
        json.dump(work(sys.stdin.buffer.read()), sys.stdout)
    except BadArtifact as bad:
        json.dump({"code": bad.code, "title": bad.title, "detail": bad.detail, "fix": bad.fix}, sys.stdout)
        return BAD
    return 0
