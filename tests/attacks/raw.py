"""A stranger's end of a connection: bytes out, and whatever comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.fleets.waiting import PATIENCE_S


class Raw:
    """One connection on loopback."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def first_line(self) -> bytes:
        """The next line that the other end sends."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.readline()

    async def until_closed(self) -> bytes:
        """All that the other end sends until it closes, which it has to."""
        got = b""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while chunk := await self._reader.read(1 << 16):
                    got += chunk
        except ConnectionResetError:
            pass  # it closed before it had read all that we sent
        return got

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """The status and the JSON document of the answer after which the other end closes."""
        head, _, body = (await self.until_closed()).partition(b"\r\n\r\n")
        assert head, "it closed without a word"
        return int(head.split()[1]), json.loads(body)

    async def refusal(self) -> tuple[int, str]:
        """The status and the code of the answer after which the other end closes."""
        status, problem = await self.answer()
        return status, problem["error"]["code"] if "error" in problem else problem["code"]


@asynccontextmanager
async def connected(port: int, first: bytes = b"") -> AsyncIterator[Raw]:
    """A connection that ends with the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        raw = Raw(reader, writer)
        if first:
            await raw.send(first)
        yield raw
    finally:
        writer.close()


async def refused(port: int, request: bytes) -> tuple[int, str]:
    """The status and the code that a whole attack over one connection is answered with."""
    async with connected(port, request) as raw:
        return await raw.refusal()


def post(path: str, *headers: str, body: bytes = b"", length: int | None = None) -> bytes:
    """A POST with JSON, which may announce another length than it has."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: hub",
        "content-type: application/json",
        f"content-length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, *headers: str) -> bytes:
    """A GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: hub", *headers]).encode() + b"\r\n\r\n"
