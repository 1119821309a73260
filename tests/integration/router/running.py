"""A router as the agent uses it: its control socket, a caller's client, and the process where a test needs one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from tests.fleets.host import free_port

from loradeck.schemas.ids import digest_of
from loradeck.schemas.log import GENESIS
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.table import Callers, Pin, ReleaseRef, ResponseChecks, TableEntry
from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.protocol import StrangerLimits
from loradeck_agent.host.listening import bind
from loradeck_agent.router.serve import Router

KEY = "acme-key"
BASE = digest_of({"base": "one"})
OTHER_BASE = digest_of({"base": "two"})


def release(label: str, tenant: str = "acme", base: str = BASE) -> ReleaseRef:
    """A release of an adapter that exists in name only: the engine of these tests answers by name."""
    if label == "base":
        made = Release(tenant=tenant, form=Form.BASE, base=base, adapter=None, merged=None, label=label)
    else:
        adapter = digest_of({"adapter": label})
        made = Release(tenant=tenant, form=Form.ADAPTER, base=base, adapter=adapter, merged=None, label=label)
    return ReleaseRef(id=made.id, release=made, label=label)


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def entry(current: ReleaseRef | None, generation: int = 1, **fields: Any) -> TableEntry:
    tenant = fields.pop("tenant", "acme")
    fields.setdefault("keys", (sha(KEY) if tenant == "acme" else sha(f"{tenant}-key"),))
    fields.setdefault("route", "production")
    fields.setdefault("epoch", 1)
    fields.setdefault("callers", Callers(parameters=("test",)))  # what the tests ask of their engine
    return TableEntry(tenant=tenant, generation=generation, current=current, **fields)


def unchecked(current: ReleaseRef | None, generation: int = 1, **fields: Any) -> TableEntry:
    """An entry whose route has no answer checked: its router starts no child, which takes a quarter of a second."""
    return entry(current, generation, **{"checks": ResponseChecks(sample=0), **fields})


def pin(to: ReleaseRef, over: tuple[int, int] = (1, 1)) -> Pin:
    return Pin(tenant="acme", route="production", release=to, over=over, actor="ann", reason="test", at_ms=1)


class Running:
    """One router process on one folder. Started again on the same folder, it is the same router restarted."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "router"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: asyncio.subprocess.Process | None = None
        self.left: list[asyncio.subprocess.Process] = []
        """Routers before it, which hand over or have."""
        self.listening: list[socket.socket] = []
        """The callers' sockets, where the test holds them as the agent does."""
        self.here: Router | None = None
        self.errors = folder / "router.err"
        self.rev = 0
        self._control: aiohttp.ClientSession | None = None
        self._callers: aiohttp.ClientSession | None = None

    # ---- the process ---------------------------------------------------------------------------------------

    async def spawn(
        self,
        env: dict[str, str] | None = None,
        module: str = "loradeck_agent.router",
        open_files: int | None = None,
        most_files: int | None = None,
        more: Sequence[str] = (),
    ) -> None:
        """Starts the process without waiting for it to serve. `more`: further arguments.

        `open_files`: the limit that it inherits, as from a shell or a service manager. `most_files`: one that it cannot
        raise.
        """
        lower = None
        if open_files is not None or most_files is not None:
            most = most_files or resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            lower = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (open_files or most, most))
        with self.errors.open("ab") as errors:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                "--state",
                str(self.state),
                "--listen",
                f"127.0.0.1:{self.port}",
                *more,
                *(("--sockets", *(str(held.fileno()) for held in self.listening)) if self.listening else ()),
                pass_fds=[held.fileno() for held in self.listening],
                env={**os.environ, **(env or {})},
                stderr=errors,
                start_new_session=True,
                preexec_fn=lower,
            )

    async def start_here(self, limits: StrangerLimits | None = None, tls: ServerCertificate | None = None) -> None:
        """Serves from this process, which is quicker; sockets, table and checker are the real ones."""
        self.here = Router(self.state)
        await self.here.start("127.0.0.1", self.port, tls, limits)

    async def start(self, env: dict[str, str] | None = None) -> None:
        await self.spawn(env)
        await self.until_up()

    def hold(self) -> None:
        """Holds the callers' sockets from now on, as the agent does."""
        self.listening = bind(f"127.0.0.1:{self.port}")

    async def succeed(
        self, *more: str, env: dict[str, str] | None = None, module: str = "loradeck_agent.router"
    ) -> tuple[asyncio.subprocess.Process, asyncio.subprocess.Process]:
        """Starts a router that takes over from the one that runs: that one, and the new one."""
        assert self.process is not None
        before = self.process
        self.left.append(before)
        await self.spawn(env, module, more=("--take-over", "--build", "new", *more))
        assert self.process is not None
        return before, self.process

    async def until_up(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                await self.get("/control/state")
                return
            except aiohttp.ClientConnectionError:
                assert self.process is not None
                assert self.process.returncode is None, self.errors.read_text()
                assert time.monotonic() < deadline, "the router did not come up"
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        status = await self.process.wait()
        await self.hang_up()
        return status

    async def hang_up(self) -> None:
        """Forgets connections to a process that is gone."""
        for session in (self._control, self._callers):
            if session is not None:
                await session.close()
        self._control = self._callers = None

    async def leave_control(self) -> None:
        """Closes the agent's connections: its next call opens one."""
        if self._control is not None:
            await self._control.close()
        self._control = None

    async def close(self) -> None:
        if self.process is not None:
            await self.kill()
        for before in self.left:
            if before.returncode is None:
                before.kill()
            await before.wait()
        for held in self.listening:
            held.close()
        await self.hang_up()
        if self.here is not None:
            await self.here.stop()

    # ---- the agent's side ----------------------------------------------------------------------------------

    @property
    def control(self) -> aiohttp.ClientSession:
        if self._control is None:
            self._control = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self.state / "router.sock")))
        return self._control

    async def get(self, path: str) -> dict[str, Any]:
        async with self.control.get(f"http://router{path}") as answer:
            assert answer.status == 200, await answer.text()
            document: dict[str, Any] = await answer.json()
            return document

    async def call(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        async with self.control.post(f"http://router{path}", json=body) as answer:
            return answer.status, await answer.json(content_type=None)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        status, document = await self.call(path, body)
        assert status == 200, document
        return document

    async def table(self, *entries: TableEntry, epoch: int = 1, rev: int | None = None) -> list[dict[str, Any]]:
        """Sends entries at the next rev (or at this one); the acknowledgements."""
        self.rev = self.rev + 1 if rev is None else rev
        body = {
            "epoch": epoch,
            "rev": self.rev,
            "hash": GENESIS,
            "entries": [e.model_dump(mode="json") for e in entries],
        }
        acks: list[dict[str, Any]] = (await self.post("/control/table", body))["acks"]
        return acks

    async def engines(self, *engines: tuple[str, str, list[ReleaseRef]], base: str = BASE) -> list[dict[str, Any]]:
        """Tells of engines as (replica, socket, ready releases), all of one base."""
        replicas = [
            {"replica": name, "socket": path, "base": base, "base_name": "base", "ready": [ref.id for ref in ready]}
            for name, path, ready in engines
        ]
        acks: list[dict[str, Any]] = (await self.post("/control/engines", {"replicas": replicas}))["acks"]
        return acks

    async def stats(self) -> list[dict[str, Any]]:
        traffic: list[dict[str, Any]] = (await self.get("/control/stats"))["traffic"]
        return traffic

    async def trace(self, rows: int) -> list[dict[str, Any]]:
        """The trace once it has so many rows: they enter when they are judged."""
        deadline = time.monotonic() + 60
        while True:
            found: list[dict[str, Any]] = (await self.get("/control/trace"))["rows"]
            if len(found) >= rows:
                return found
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.01)

    # ---- a caller's side -----------------------------------------------------------------------------------

    @property
    def callers(self) -> aiohttp.ClientSession:
        if self._callers is None:
            self._callers = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._callers

    async def ask(
        self,
        model: str = "acme",
        *,
        key: str | None = KEY,
        path: str = "/v1/chat/completions",
        also: dict[str, str] | None = None,
        **test: Any,
    ) -> Answer:
        """One request, read to its end. `test` is for the engine; `stream=True` asks for a stream.

        Args:
            also: further headers; `user` among them goes into the body.
        """
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        more = dict(also or {})
        if "user" in more:
            body["user"] = more.pop("user")
        if test.pop("stream", False):
            body["stream"] = True
        if test:
            body["test"] = test
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        async with self.callers.post(self.url + path, json=body, headers=headers | more) as answer:
            raw = await answer.read()
            return Answer(answer.status, dict(answer.headers), raw)


class Answer:
    def __init__(self, status: int, headers: dict[str, str], raw: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.raw = raw

    @property
    def text(self) -> str:
        """The answer's words, whole or put together from its events."""
        if self.headers["content-type"].startswith("text/event-stream"):
            data = [line[6:] for line in self.raw.decode().splitlines() if line.startswith("data: ")]
            assert data[-1] == "[DONE]", self.raw
            return "".join(json.loads(part)["choices"][0]["delta"].get("content", "") for part in data[:-1])
        content: str = json.loads(self.raw)["choices"][0]["message"]["content"]
        return content

    @property
    def code(self) -> str:
        code: str = json.loads(self.raw)["error"]["code"]
        return code
