"""A hub that stands by and is active as the lease of its database has it, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from loradeck.hub import server as hub_server
from loradeck.hub.listeners import own_socket
from loradeck.hub.process import HubProcess
from loradeck.hub.server import Sockets
from loradeck.systemd.notify import Service


@asynccontextmanager
async def taking_turns(process: HubProcess, data: Path) -> AsyncIterator[tuple[asyncio.Task[None], httpx.AsyncClient]]:
    """The hub of a process as it stands by and is active, until the block ends."""
    stop = asyncio.Event()
    sockets = Sockets(own_socket(data / "hub.sock"))
    turns = asyncio.create_task(hub_server._by_turns(process, sockets, stop, Service()))
    transport = httpx.AsyncHTTPTransport(uds=str(data / "hub.sock"), verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://hub", timeout=90) as client:
        try:
            yield turns, client
        finally:
            stop.set()
            try:
                await turns
            finally:
                process.store.close()
