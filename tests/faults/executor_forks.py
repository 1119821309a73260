"""Forks train executors: the libraries are imported once, and each fork is a process of its own to be killed.

Reads one JSON object a line from stdin, {"spec": path, "dies": n or null, "world": n, "port": p}, and answers
{"pids": [...]}, then {"statuses": [wait status, ...]}: one process, or as many as torchrun would start. `dies`: the
process kills itself just before its n-th fsync, rename or folder removal, so that every place inside the writing of a
checkpoint can be hit on purpose.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

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


def run_as(rank: int, order: dict[str, Any]) -> NoReturn:
    """One of the processes of a run."""
    if order["world"] > 1:
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(order["world"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(order["port"])
        )
    if order["dies"]:
        die_before(order["dies"])
    os._exit(protocol.run("train", train, ["--spec", order["spec"]]))


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pids = []
        for rank in range(order["world"]):
            pid = os.fork()
            if pid == 0:
                run_as(rank, order)
            pids.append(pid)
        print(json.dumps({"pids": pids}), flush=True)
        print(json.dumps({"statuses": [os.waitpid(pid, 0)[1] for pid in pids]}), flush=True)


if __name__ == "__main__":
    main()
