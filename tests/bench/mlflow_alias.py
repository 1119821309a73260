"""The peer of `R`: an alias in MLflow's model registry, and a server that polls it.

`measure()` starts MLflow's own server on SQLite in its own environment, and runs `mlflow_client.py` there.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from tests.bench.peers import install, start, stop, until_up
from tests.bench.rows import Row, quantile

from incident.fleet import free_port

CLIENT = Path(__file__).with_name("mlflow_client.py")
SLOW_N = 20
FAST_N = 100


def measure(*, slow: int = SLOW_N, fast: int = FAST_N) -> list[Row]:
    """About 60 s."""
    peer = install("mlflow")
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        url = f"http://127.0.0.1:{free_port()}"
        env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}
        command = [peer.bin("mlflow"), "server", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
        command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
        command += ["--default-artifact-root", f"{folder}/artifacts"]
        log = Path(folder) / "mlflow.log"
        server = start(command, log, env)
        try:
            until_up(f"{url}/health", server, log)
            done = subprocess.run(
                [peer.bin("python"), str(CLIENT), url, str(slow), str(fast)],
                env=env,
                capture_output=True,
                text=True,
                timeout=300,
                check=True,
            )
        finally:
            stop(server)
    found = json.loads(done.stdout.splitlines()[-1])
    name = f"MLflow {peer.version}"
    return [
        Row(
            f"peer: {name}, alias set",
            quantile(found["set"], 50),
            "ms",
            len(found["set"]),
            how="set_registered_model_alias on its own server over SQLite, p50",
        ),
        Row(
            f"peer: {name}, alias set to seen by a poller once a second: p50",
            quantile(found["slow"], 50),
            "ms",
            len(found["slow"]),
            how="from the call to the poll that returned the other version; nothing is loaded and nothing proven",
        ),
        Row(f"peer: {name}, the same: worst", max(found["slow"]), "ms", len(found["slow"])),
        Row(
            f"peer: {name}, alias set to seen by a poller that never pauses: p50",
            quantile(found["fast"], 50),
            "ms",
            len(found["fast"]),
        ),
        Row(f"peer: {name}, the same: p99", quantile(found["fast"], 99), "ms", len(found["fast"])),
    ]
