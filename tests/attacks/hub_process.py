"""A hub in a process of its own, as `loradeck hub` starts it."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

_MAIN = """
import sys
from pathlib import Path
from loradeck.hub.server import serve
serve(Path(sys.argv[1]), "127.0.0.1:0", "test")
"""


class HubProcess:
    """A running hub: its folder, its address, and tokens by role."""

    def __init__(self, data: Path, url: str, pid: int) -> None:
        self.data = data
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.pid = pid
        self.printed: deque[str] = deque(maxlen=400)
        """The newest lines of its log."""
        self._tokens: dict[str, str] = {}

    def local(self, method: str, path: str, body: Any = None) -> Any:
        """A call over its own socket."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.data / "hub.sock")), timeout=30) as client:
            answer = client.request(method, f"http://hub/v1/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def token(self, role: str) -> str:
        """A token of this role; an agent's is of the node n1."""
        if role not in self._tokens:
            body = {"name": role, "role": role, "node": "n1" if role == "agent" else None}
            self._tokens[role] = self.local("POST", "tokens", body)["token"]
        return self._tokens[role]

    def trusted(self) -> Any:
        """What no attack may change: the log's position and hash, tenants, and tokens."""
        status = self.local("GET", "state")["status"]
        known = {record["sha256"] for record in self.local("GET", "tokens")}
        return status["epoch"], status["rev"], self.local("GET", "tenants"), known

    def memory(self) -> int:
        """The most bytes of memory that it has held so far."""
        return peak_memory(self.pid)


def peak_memory(pid: int) -> int:
    """The most bytes of memory that a process has held so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def hub_process(most_files: int | None = None) -> Iterator[HubProcess]:
    """A hub with the tenant acme, until the block ends. `most_files`: a limit of open files that it cannot raise."""
    data = Path(tempfile.mkdtemp(prefix="ld"))
    lower = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (most_files, most_files)) if most_files else None
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN, str(data)], stderr=subprocess.PIPE, text=True, preexec_fn=lower
    )
    try:
        assert process.stderr is not None
        ready = process.stderr.readline()
        found = re.search(r"http://\S+", ready)
        assert found is not None, ready
        hub = HubProcess(data, found.group(), process.pid)
        # A pipe that nobody reads would be full after 64 kB, and the hub would stand still at its next line.
        threading.Thread(target=hub.printed.extend, args=(process.stderr,), daemon=True).start()
        hub.local("POST", "tenants", {"name": "acme"})
        hub.local("PUT", "tenants/acme/routes/production", {})
        yield hub
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(data)
