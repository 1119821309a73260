"""The daemon's HTTP client: connections that are kept, that close under it, and answers that never come."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fleets.waiting import PATIENCE_S

from loradeck_agent.host.errors import Unreachable
from loradeck_agent.host.http_client import Endpoint, HttpClient


class Server:
    """Answers with what the test put into `script`, one item a request; counts connections."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections = 0
        self.requests: list[bytes] = []
        self.script: list[bytes | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next((int(x.split(b":")[1]) for x in lines if x.startswith(b"content-length")), 0)
                self.requests.append(head + await reader.readexactly(length))
                answer = self.script.pop(0)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in answer:
                    return
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        made = Server(Path(folder) / "s")
        listener = await asyncio.start_unix_server(made.serve, made.path)
        yield made
        listener.close()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[HttpClient]:
    made = HttpClient(Endpoint(unix=server.path), {"x-test": "1"})
    yield made
    made.close()


async def test_one_connection_carries_many_calls(server: Server, client: HttpClient) -> None:
    server.script = [OK, OK, OK]
    for _ in range(3):
        assert (await client.get("/a", timeout=PATIENCE_S)).text == "ok"
    assert server.connections == 1
    assert all(b"x-test: 1" in request.lower() for request in server.requests)


async def test_calls_at_once_do_not_wait_for_each_other(server: Server, client: HttpClient) -> None:
    server.script = [OK] * 5
    replies = await asyncio.gather(*(client.get("/a", timeout=PATIENCE_S) for _ in range(5)))
    assert [reply.text for reply in replies] == ["ok"] * 5
    assert server.connections == 5


async def test_a_connection_that_was_closed_while_idle_is_replaced(server: Server, client: HttpClient) -> None:
    server.script = [OK, None, OK]
    await client.get("/a", timeout=PATIENCE_S)
    assert (await client.get("/b", timeout=PATIENCE_S)).text == "ok"
    assert server.connections == 2


async def test_an_answer_that_breaks_off_is_no_answer(server: Server, client: HttpClient) -> None:
    server.script = [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nhalf"]
    with pytest.raises(Unreachable):
        await client.get("/a", timeout=PATIENCE_S)
    assert len(server.requests) == 1, "what may have been carried out is not sent again"


async def test_an_answer_that_does_not_come_ends_at_its_deadline(server: Server, client: HttpClient) -> None:
    server.script = [b""]
    with pytest.raises(Unreachable, match="took more than"):
        await client.get("/a", timeout=0.1)


async def test_nobody_listening_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="GET /a"):
        await HttpClient(Endpoint(unix=tmp_path / "none")).get("/a", timeout=PATIENCE_S)


async def test_chunked_answers_are_put_together_or_given_piece_by_piece(server: Server, client: HttpClient) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    server.script = [chunked, chunked]
    assert (await client.get("/a", timeout=PATIENCE_S)).body == b"abcde"
    got: list[bytes] = []
    reply = await client.call("GET", "/a", timeout=PATIENCE_S, sink=got.append)
    assert (b"".join(got), reply.body) == (b"abcde", b"")
    assert server.connections == 1


async def test_a_body_is_streamed_up(server: Server, client: HttpClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"de"

    server.script = [OK]
    await client.call("PUT", "/a", body(), size=5, timeout=PATIENCE_S)
    assert server.requests[0].endswith(b"\r\n\r\nabcde")


async def test_an_error_in_the_sink_is_the_callers_own(server: Server, client: HttpClient) -> None:
    def full(_: bytes) -> None:
        raise ValueError("no room")

    server.script = [OK, OK]
    with pytest.raises(ValueError, match="no room"):
        await client.call("GET", "/a", timeout=PATIENCE_S, sink=full)
    assert (await client.get("/a", timeout=PATIENCE_S)).text == "ok"
