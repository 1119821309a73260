"""A hub in a process of its own, started by the command line that people use."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from tests.fleets.host import free_port, short_folder
from tests.fleets.waiting import wait_until

from loradeck.client.api import HubApi
from loradeck.client.config import Context

LORADECK = Path(sys.executable).with_name("loradeck")


class HubProcess:
    """A hub over a folder, at one address however often it is started, and tokens of it by role.

    `options`: of `loradeck hub`. `env`: its environment, where that is not this process's. `log`: what it writes to
    stderr, `hub.log` in its folder by default. `most_files`: a limit of open files that it cannot raise.
    """

    def __init__(
        self,
        data: Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        most_files: int | None = None,
    ) -> None:
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.socket = data / "hub.sock"
        self._options = options
        self._env = env
        self._log = log or data / "hub.log"
        self._most_files = most_files
        self._began = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._tokens: dict[str, str] = {}

    # ---- its process -----------------------------------------------------------------------------------------

    def start(self) -> str:
        """Starts it, and returns its line once it listens."""
        command = [str(LORADECK), "hub", "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}", *self._options]
        most = self._most_files
        lower = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (most, most)) if most else None
        self._began = len(self.log())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                preexec_fn=lower,
            )
        return self.said(rf"loradeck hub \w+ unix:\S+ {self.url}")

    def said(self, pattern: str) -> str:
        """The newest line of its present life that a pattern is found in, once there is one."""

        def lines() -> list[str]:
            found = [line for line in self.log()[self._began :].splitlines() if re.search(pattern, line)]
            assert found or self.process.poll() is None, f"the hub ended: {self.log()}"
            return found

        return str(wait_until(f"the hub writes {pattern}", lines)[-1])

    def log(self) -> str:
        """What it has written, over all its lives."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process of its present life."""
        assert self._process is not None, "the hub was never started"
        return self._process

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.process.pid, number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Ends it with a signal, if it was started; returns its exit status."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(60)

    def memory(self) -> int:
        """The most bytes of memory that it has held so far."""
        return peak_memory(self.process.pid)

    # ---- what it is asked ------------------------------------------------------------------------------------

    def api(self) -> HubApi:
        """A client on its own socket."""
        return HubApi.to(Context(name="test", socket=self.socket))

    def local(self, method: str, path: str, body: Any = None) -> Any:
        """A call over its own socket."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket), verify=False), timeout=30) as client:
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


def peak_memory(pid: int) -> int:
    """The most bytes of memory that a process has held so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def hub_with_a_tenant(most_files: int | None = None) -> Iterator[HubProcess]:
    """A hub with the tenant acme, until the block ends. `most_files`: see `HubProcess`."""
    with short_folder() as data:
        hub = HubProcess(data, most_files=most_files)
        try:
            hub.start()
            hub.local("POST", "tenants", {"name": "acme"})
            hub.local("PUT", "tenants/acme/routes/production", {})
            yield hub
        finally:
            hub.end()
