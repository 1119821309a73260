"""The floor of an agent: what asks a router for its figures each second, and sends them with those of 8 GPUs.

No engine, table, job or file is looked after. `python -m tests.bench.bare_reports SOCKET URL`: a router's control
socket, and a WebSocket that reads what comes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import aiohttp
import uvloop
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError
from websockets.sync.server import ServerConnection, serve

from incident.fleet import free_port

GPUS = 8
EVERY_S = 1.0
GPU = {
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "name": "a GPU",
    "memory_used": 1_000_000_000,
    "memory_total": 80_000_000_000,
    "used": 0.5,
    "power_w": 300.0,
    "temperature_c": 60.0,
}


@contextmanager
def reads_all() -> Iterator[str]:
    """The URL of a WebSocket on loopback whose server, in a thread of this process, reads what comes."""

    def read(socket: ServerConnection) -> None:
        with suppress(ConnectionClosedError):  # whoever reports is killed, and says no farewell
            for _ in socket:
                pass

    with serve(read, "127.0.0.1", free_port(), compression=None) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


async def _report(router: Path, url: str) -> None:
    connector = aiohttp.UnixConnector(path=str(router))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        connect(url, compression=None, proxy=None) as socket,
    ):
        while True:
            async with session.get("http://router/control/stats") as answer:
                figures = await answer.json()
            await socket.send(json.dumps({"figures": figures, "gpus": [GPU] * GPUS}))
            await asyncio.sleep(EVERY_S)


if __name__ == "__main__":
    uvloop.run(_report(Path(sys.argv[1]), sys.argv[2]))
