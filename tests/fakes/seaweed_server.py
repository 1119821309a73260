"""A real S3 server, SeaweedFS from PyPI: started in a folder of its own, killed, and ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import BaseError

from loradeck.artifacts.blobs.objects import opened

WEED = Path(__file__).parents[2] / ".venv-seaweed" / "bin" / "weed"
KEY, SECRET = "hub", "secret-of-the-hub"
URL = "s3://artifacts/loradeck"


def _free_ports(count: int) -> list[int]:
    """Ports below 45,000: SeaweedFS adds 10,000 for gRPC."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1] % 20_000 + 20_000
        if port not in found and _free(port) and _free(port + 10_000):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def seaweed() -> Iterator[Mapping[str, str]]:
    """A server with one identity. Yields the environment of a hub that uses it, which this process has meanwhile."""
    assert WEED.exists(), f"{WEED} is missing: make test-services installs it"
    master, volume, filer, s3 = _free_ports(4)
    env = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    with tempfile.TemporaryDirectory(prefix="ldweed", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        identity = {"name": "hub", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        command = [str(WEED), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"]
        command += ["-filer", "-s3", f"-s3.config={folder / 's3.json'}", "-volume.max=20"]
        command += ["-master.volumeSizeLimitMB=64", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        before = dict(os.environ)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            os.environ.update(env)
            _wait_until_up(process, folder / "log")
            yield env
        finally:
            os.environ.clear()
            os.environ.update(before)
            process.kill()
            process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    """Until an object can be stored, which also makes the bucket."""
    deadline, store = time.monotonic() + 60, opened(URL, retry_s=1)
    while True:
        try:
            obstore.put(store, "first", b"")
            return
        except BaseError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"SeaweedFS did not start: {error}\n{log.read_text()[-2000:]}") from None
            time.sleep(0.2)
