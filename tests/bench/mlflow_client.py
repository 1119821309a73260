"""Runs in MLflow's environment: sets an alias and sees, from another process, when a poller has it.

    python mlflow_client.py URL SLOW_N FAST_N

prints `{"set": [ms], "slow": [ms], "fast": [ms]}`. It imports nothing of ours.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

from mlflow import MlflowClient

MODEL, ALIAS = "acme", "production"


def poll(url: str, period_s: float) -> None:
    """Says when the version behind the alias has changed, on CLOCK_MONOTONIC."""
    client, seen = MlflowClient(tracking_uri=url), ""
    while True:
        began = time.monotonic()
        version = client.get_model_version_by_alias(MODEL, ALIAS).version
        if version != seen:
            seen = version
            print(json.dumps({"version": str(version), "at": time.monotonic()}), flush=True)
        time.sleep(max(0.0, began + period_s - time.monotonic()))


def main(url: str, slow: int, fast: int) -> None:
    client = MlflowClient(tracking_uri=url)
    client.create_registered_model(MODEL)
    versions = [str(client.create_model_version(MODEL, source=f"s3://bucket/{n}", run_id=None).version) for n in (1, 2)]
    client.set_registered_model_alias(MODEL, ALIAS, versions[0])
    out: dict[str, list[float]] = {"set": [], "slow": [], "fast": []}
    for name, period_s, n in (("slow", 1.0, slow), ("fast", 0.0, fast)):
        command = [sys.executable, __file__, "poll", url, str(period_s)]
        poller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert poller.stdout is not None
        try:
            current = json.loads(poller.stdout.readline())["version"]
            for _ in range(n):
                time.sleep(random.uniform(0.05, 0.05 + period_s))  # anywhere between two polls
                current = versions[1] if current == versions[0] else versions[0]
                began = time.monotonic()
                client.set_registered_model_alias(MODEL, ALIAS, current)
                if name == "slow":  # a poller that never pauses keeps the server busy
                    out["set"].append((time.monotonic() - began) * 1000)
                seen = json.loads(poller.stdout.readline())
                assert seen["version"] == current, seen
                out[name].append((seen["at"] - began) * 1000)
        finally:
            poller.kill()
            poller.wait()
    print(json.dumps(out))


if __name__ == "__main__":
    if sys.argv[1] == "poll":
        poll(sys.argv[2], float(sys.argv[3]))
    else:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
