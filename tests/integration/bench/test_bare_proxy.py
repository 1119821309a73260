"""The router's peer in bare aiohttp does what it is compared for: it names the model and passes answers on."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from tests.bench.bare_proxy import BareProxy
from tests.integration.router.running import KEY, Answer, free_port
from tests.integration.router.upstream import Upstream


@pytest.fixture
async def engine() -> AsyncIterator[Upstream]:
    with tempfile.TemporaryDirectory(prefix="ld") as folder:  # a socket's path has to be short
        made = Upstream("e0", f"{folder}/e0.sock")
        await made.start()
        yield made
        await made.stop()


@pytest.fixture
async def url(engine: Upstream) -> AsyncIterator[str]:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(engine.socket)) as session:
        proxy, port = BareProxy(session, "http://engine", "release-1"), free_port()
        runner = web.ServerRunner(web.Server(proxy.handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
        await runner.cleanup()


async def _ask(url: str, **more: object) -> Answer:
    body = {"model": "acme", "messages": [], **more}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
        session.post(url, json=body) as answer,
    ):
        return Answer(answer.status, dict(answer.headers), await answer.read())


async def test_the_engine_is_asked_for_its_name_of_the_model_with_the_callers_key(engine: Upstream, url: str) -> None:
    answer = await _ask(url)
    assert (answer.status, engine.seen[0]["model"]) == (200, "release-1")
    assert engine.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "release-1" in answer.text


async def test_a_refusal_of_the_engine_reaches_the_caller(url: str) -> None:
    assert (await _ask(url, test={"hostile": 503})).status == 503


async def test_the_events_of_a_stream_reach_the_caller_before_the_next_are_made(engine: Upstream, url: str) -> None:
    body = {"model": "acme", "messages": [], "stream": True, "test": {"events": 3, "paced": True}}
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        pieces = []
        async for piece in answer.content.iter_any():
            pieces.append(piece)
            engine.read.release()
    assert len(pieces) == 4, "three events, and the end"
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
