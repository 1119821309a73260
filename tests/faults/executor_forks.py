"""Forks train executors: the libraries are imported once, and each fork is a process of its own to be killed.

Reads one JSON object a line from stdin, {"spec": path, "dies": n or null}, and answers {"pid": p}, then
{"status": wait status}. `dies`: the process kills itself just before its n-th fsync, rename or folder removal, so
that every place inside the writing of a checkpoint can be hit on purpose.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loradeck_agent.executors import protocol
from loradeck_agent.executors.train import train


def die_before(number: int) -> None:
    """SIGKILL before the n-th call that makes something durable or gives it a name."""
    left = [number]

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted

    os.fsync = counting(os.fsync)
    shutil.rmtree = counting(shutil.rmtree)
    Path.rename = counting(Path.rename)  # type: ignore[method-assign]
    Path.replace = counting(Path.replace)  # type: ignore[method-assign]


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            if order["dies"]:
                die_before(order["dies"])
            os._exit(protocol.run("train", train, ["--spec", order["spec"]]))
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": status}), flush=True)


if __name__ == "__main__":
    main()
