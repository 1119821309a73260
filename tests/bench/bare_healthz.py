"""The floor of a hub beside strangers: a bare protocol that answers one call with a token, and nothing else.

It reads no more of a head than a hub does, and hangs up on whoever sends more, has no token, or asks for anything else.
What it takes to answer while strangers are at work is what the machine's cores leave to anybody.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

LONGEST_HEAD = 16_384
_BODY = b'{"ok":true}'
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_BODY) + _BODY
_REFUSAL = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"


class _Connection(asyncio.Protocol):
    def __init__(self, token: bytes) -> None:
        self._token = token
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases

    def data_received(self, data: bytes) -> None:
        self._head += data
        while b"\r\n\r\n" in self._head:
            head, _, self._head = self._head.partition(b"\r\n\r\n")
            if head.startswith(b"GET /healthz ") and self._token in head:
                self._transport.write(_ANSWER)
            else:
                self._transport.write(_REFUSAL)
                self._transport.close()
                return
        if len(self._head) > LONGEST_HEAD:
            self._transport.abort()


async def _serve(port: int, token: str) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(token.encode()), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2]))
