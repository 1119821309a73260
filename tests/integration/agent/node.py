"""One node under test: the real agent, which starts the real router and the fake engine, in a short folder."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
from tests.fleets.host import free_port
from tests.fleets.waiting import until

from loradeck_agent.host.errors import Unreachable
from loradeck_agent.host.state_folder import StateFolder, holder_of
from loradeck_agent.router.client import RouterControl
from loradeck_agent.router.wire import RouterState

MAIN = Path(__file__).parent / "agent_main.py"
CALLER_KEY = "key-of-acme"
CALLER_HASH = hashlib.sha256(CALLER_KEY.encode()).hexdigest()


class Node:
    def __init__(
        self, folder: Path, base: Path, hub_url: str | list[str], token: str, *, slots: int = 4, engine: str = ""
    ) -> None:
        """`hub_url`: one, or several. `engine`: settings of its engine, as TOML, in place of the fake embedded one."""
        self.root = folder
        self.state = StateFolder(folder / "s")
        self.base = base
        self.port = free_port()
        self.token = folder / "token"
        self.token.write_text(token)
        self.token.chmod(0o600)
        self.config = folder / "agent.toml"
        self.config.write_text(
            f'node = "gpu-01"\nhub = {json.dumps(hub_url)}\ntoken = "token"\nstate = "s"\n'
            f'[labels]\nsite = "eu-1"\n[router]\nlisten = "127.0.0.1:{self.port}"\n'
            f'[[engine]]\nname = "e0"\nbase = "{base}"\nslots = {slots}\n{engine}\n'
        )
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.router = RouterControl(self.state)
        self.refusal = ""
        """What the router said when it refused last."""

    # ---- processes -----------------------------------------------------------------------------------------

    def start(self, **environment: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(MAIN), "run", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )

    def command(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(MAIN), *args, "--config", str(self.config)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    async def end_agent(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, 60)

    def close(self) -> None:
        """Ends everything, whatever the test left running."""
        self.router.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        deadline = time.monotonic() + 60
        while (left := {*self.pids(), *self.started()}) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def started(self) -> list[int]:
        """Processes whose command line names a folder of this node: one that has just been started holds no lock."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.state.root).encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
        return found

    def pids(self) -> list[int]:
        """Router, engine and executors that run."""
        engines = sorted(self.state.root.glob("engines/*/engine.lock"))
        found = [self.router_pid, *(holder_of(lock) for lock in engines)]
        for job in self.state.jobs.glob("*/job.json"):
            document = json.loads(job.read_text())
            pid = document["pid"]
            if pid and Path(f"/proc/{pid}/stat").exists() and not document["ended"]:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z" and int(fields[19]) == document["started"]:
                    found.append(pid)
        return [pid for pid in found if pid is not None]

    @property
    def router_pid(self) -> int | None:
        return holder_of(self.state.router_lock)

    @property
    def engine_pid(self) -> int | None:
        return holder_of(self.state.engine_lock("e0"))

    # ---- looking -------------------------------------------------------------------------------------------

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def engine_calls(self) -> list[str]:
        path = self.state.engine("e0") / "calls.log"
        return path.read_text().splitlines() if path.exists() else []

    async def router_state(self) -> RouterState:
        try:
            return await self.router.state()
        except Unreachable:
            return await until(self._state_or_none, "the router answers")

    async def router_build(self) -> str:
        """Which build the router is."""
        return (await self.router_state()).build

    async def router_has(self, release: str) -> bool:
        """Whether the router was told that its engine may be asked for a release."""
        return release in (await self.router_state()).ready.get("gpu-01", ())

    async def _state_or_none(self) -> RouterState | None:
        try:
            return await self.router.state()
        except Unreachable:
            return None

    async def ask(self, prompt: str, model: str = "acme") -> tuple[int, list[int], str]:
        """A caller's request. Returns status, the answer's tokens, and what the header says answered."""
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8}
        headers = {"Authorization": f"Bearer {CALLER_KEY}"}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as reply:
            if reply.status != 200:
                self.refusal = await reply.text()
                return reply.status, [], ""
            text = (await reply.json())["choices"][0]["message"]["content"]
            return 200, [int(token) for token in text.split()], reply.headers["x-loradeck-release"]

    async def tokens(self, prompt: str) -> list[int]:
        status, tokens, _ = await self.ask(prompt)
        assert status == 200, f"the router answered {status}: {self.refusal}\n{self.log_text()[-4000:]}"
        return tokens
