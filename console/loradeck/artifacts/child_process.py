"""Tasks given to a child process, because they take too long or import too much for a process that serves requests."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from loradeck.artifacts.errors import BadArtifact
from loradeck.schemas.fault import Fault

BAD = 65
"""Exit status of a child that reports a BadArtifact."""


async def ask(module: str, task: BaseModel) -> Any:
    """Runs `python -m module` on a task (JSON on its stdin) and returns the JSON of its answer.

    Raises:
        BadArtifact: the fault that the child reported.
        RuntimeError: the child crashed.
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
    """The child's side of `ask`: the task from stdin, its answer or fault to stdout. Returns the exit status."""
    os.nice(5)  # the parent serves requests meanwhile
    try:
        json.dump(work(sys.stdin.buffer.read()), sys.stdout)
    except Fault as bad:
        json.dump({"code": bad.code, "title": bad.title, "detail": bad.detail, "fix": bad.fix}, sys.stdout)
        return BAD
    return 0
