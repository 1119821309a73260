"""What is written to a caller leaves at once: Nagle's algorithm holds the second small write back, for 40 ms."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from loradeck.hub.listeners import tcp_socket
from loradeck_agent.host.listening import bind


@pytest.mark.parametrize(
    "listening",
    [lambda: tcp_socket("127.0.0.1:0", tls=False), lambda: bind("127.0.0.1:0")[0]],
    ids=["hub", "agent"],
)
async def test_a_connection_that_asyncio_accepts_holds_no_small_write_back(
    listening: Callable[[], socket.socket],
) -> None:
    accepted = asyncio.get_running_loop().create_future()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    sock = listening()
    async with await asyncio.start_server(connected, sock=sock):
        _, writer = await asyncio.open_connection(*sock.getsockname())
        assert await accepted
        writer.close()
