"""What a tenant's own caller can do to a release, to the router and to other callers: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.router.running import KEY, Running, entry, release
from tests.integration.router.upstream import Upstream

from loradeck_agent.router.request_body import read

V1, V2 = release("v1"), release("v2")
GLOBEX = release("v1", tenant="globex")


class Attacked:
    """A router that serves acme and globex from one engine. Its table is the same after every attack."""

    def __init__(self, router: Running, engine: Upstream) -> None:
        self.router = router
        self.engine = engine

    async def post(self, body: bytes | dict[str, Any], key: str = KEY) -> tuple[int, str | None, dict[str, str]]:
        """Status, the error's code, and the headers of an answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {key}"}
        url = f"{self.router.url}/v1/completions"
        async with self.router.callers.post(url, data=data, headers=headers) as answer:
            document = json.loads(await answer.read())
            error = document.get("error", {})
            if error:
                assert {"message", "type", "param", "code"} <= error.keys(), "OpenAI's error shape"
            return answer.status, error.get("code"), dict(answer.headers)

    async def table(self) -> str:
        """What the router serves, and since which generation."""
        state = await self.router.get("/control/state")
        return json.dumps({name: state[name] for name in ("entries", "in_force", "pins")}, sort_keys=True)

    async def counted(self, tenant: str = "acme") -> tuple[int, int, int]:
        """Attempted, refused and failed requests of a tenant."""
        rows = [row for row in await self.router.stats() if row["tenant"] == tenant]
        return tuple(sum(row[name] for row in rows) for name in ("attempted", "refused", "errors"))


@pytest.fixture
async def attacked() -> AsyncIterator[Attacked]:
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    engine, router = Upstream("e0", str(folder / "e0.sock")), Running(folder)
    await engine.start()
    await router.start_here()
    await router.post("/control/hub", {"connected": True})
    await router.engines(("e0", engine.socket, [V1, V2, GLOBEX]))
    await router.table(entry(V1), entry(GLOBEX, tenant="globex"))
    made = Attacked(router, engine)
    before = await made.table()
    yield made
    assert await made.table() == before
    await router.close()
    await engine.stop()
    shutil.rmtree(folder)


def nested(depth: int) -> bytes:
    """A request with lists in each other, `depth` deep with the request itself."""
    return b'{"model": "acme", "prompt": "x", "stop": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize("depth", [65, 900, *range(960, 1000, 3), 100_000])
async def test_json_that_is_nested_deep_is_its_callers_mistake(attacked: Attacked, depth: int) -> None:
    assert (await attacked.post(nested(depth)))[:2] == (400, "bad_json")
    assert attacked.engine.seen == []
    assert await attacked.counted() == (0, 0, 0)


async def test_json_that_is_nested_as_deep_as_tools_need_passes(attacked: Attacked) -> None:
    assert (await attacked.post(nested(64)))[0] == 200


async def test_small_requests_are_served_while_a_large_body_is_read(attacked: Attacked, tmp_path: Path) -> None:
    """The child that reads large bodies opens a pipe that nobody has opened yet, and so stands still."""
    assert attacked.router.here is not None
    attacked.router.here.proxy._bodies._read = stands_still
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    order: list[str] = []

    async def ask(who: str, body: dict[str, Any], key: str) -> int:
        status = (await attacked.post(body, key))[0]
        order.append(who)
        return status

    large = {"model": "acme", "prompt": "x" * 2**20, "user": str(gate)}
    first = asyncio.create_task(ask("large", large, KEY))
    begun = await asyncio.to_thread(gate.open, "wb")  # returns once the child has opened its side
    assert [await ask("small", {"model": "globex"}, "globex-key") for _ in range(5)] == [200] * 5
    assert [await ask("own", {"model": "acme"}, KEY) for _ in range(5)] == [200] * 5
    assert not first.done()
    begun.close()
    assert await first == 200
    assert order == ["small"] * 5 + ["own"] * 5 + ["large"]


def stands_still(raw: bytes) -> bytes:
    """Reads a body in the child, once the pipe that it names has been opened and closed."""
    gate = json.loads(raw).get("user")
    if gate is not None:
        Path(gate).read_bytes()
    return read(raw)


async def test_a_body_that_ends_its_reader_harms_nobody_else(attacked: Attacked) -> None:
    assert attacked.router.here is not None
    attacked.router.here.proxy._bodies._read = ends
    large = {"model": "acme", "prompt": "x" * 2**20}
    assert (await attacked.post(large | {"user": "kill"}))[:2] == (400, "body_unreadable")
    assert (await attacked.post({"model": "globex"}, "globex-key"))[0] == 200
    assert (await attacked.post(large))[0] == 200
    assert await attacked.counted() == (1, 0, 0)


def ends(raw: bytes) -> bytes:
    """Ends the child over one body, as the kernel does where memory is short."""
    if json.loads(raw).get("user") == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(raw)
