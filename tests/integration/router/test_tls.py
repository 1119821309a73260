"""A router with the certificate of its node: a new one counts from the next connection, and open ones go on."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path

from tests.integration.router.running import KEY, Running, release
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from loradeck.hub.access.authority import Authority
from loradeck.strangers.certificates import ServerCertificate


async def test_a_renewed_certificate_needs_no_restart_and_cuts_no_connection(
    stopped: Running, engine: Upstream, folder: Path, tmp_path: Path
) -> None:
    authority = Authority.make(tmp_path, [], time.time_ns() // 1_000_000)
    await stopped.start_here(tls=ServerCertificate(authority.server))
    v1 = release("v1")
    await stopped.post("/control/hub", {"connected": True})
    await stopped.engines(("e0", str(folder / "e0.sock"), [v1]))
    await stopped.table(entry(v1))
    trust = ssl.create_default_context(cafile=str(authority.certificates))
    body = json.dumps({"model": "acme", "messages": [{"role": "user", "content": "hello"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nauthorization: Bearer {KEY}\r\n"
    ask = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def connected() -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", stopped.port, ssl=trust)
        return writer.get_extra_info("peercert")["serialNumber"], reader, writer

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ask)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))

    first, reader, writer = await connected()
    await answered(reader, writer)
    authority.serve([], time.time_ns() // 1_000_000)
    async with asyncio.timeout(60):
        while (found := await connected())[0] == first:
            found[2].close()
            await asyncio.sleep(0.1)
    await answered(*found[1:])
    await answered(reader, writer)
    for one in (writer, found[2]):
        one.close()
