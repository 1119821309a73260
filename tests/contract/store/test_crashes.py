"""Every acknowledged commit survives a kill -9, on every backend."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contract.store.conftest import Backend
from tests.contract.store.whole_log import verify_log

pytestmark = pytest.mark.drawn(seconds=10)

ROUNDS = {"sqlite": 10, "postgres": 3}


def commit_until_killed(backend: Backend, acknowledgements: int) -> list[tuple[str, int]]:
    """Start `committer.py`, let it acknowledge some moves, kill it at once, and return all it acknowledged."""
    script = Path(__file__).with_name("committer.py")
    command = [sys.executable, str(script), backend.name, backend.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledgements)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    whole = [line.split() for line in lines if line.endswith("\n")]
    return [(key, int(rev)) for key, rev in whole]


def test_every_acknowledged_commit_is_there_after_kill_9(store_factory: Backend) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    acknowledged: list[tuple[str, int]] = []
    for _ in range(ROUNDS[store_factory.name]):
        acknowledged += commit_until_killed(store_factory, rng.randint(1, 60))
        store = store_factory.open(lease=False)
        for key, rev in acknowledged:
            committed = store.lookup(key)
            assert committed is not None, f"{key} was acknowledged and is lost"
            assert committed.rev == rev
        report = verify_log(store)
        assert report.ok, report
        assert report.rev >= acknowledged[-1][1]
        store_factory.close()
    assert len(acknowledged) >= ROUNDS[store_factory.name]
