"""Sessions to what answers callers: engines, and the routers of nodes."""

import sys
from collections.abc import Iterable, Mapping

import aiohttp
from aiohttp.connector import Connection

_SMALL = 64 * 1024
"""Bytes of a body that is sent at once, without a look at whether the connection takes them."""


class _AsGiven(aiohttp.ClientRequest):
    """A request with the headers that it is given, and none of a browser's.

    `skip_auto_headers` does the same, and copies the headers twice for each request.
    """

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        """Adds none."""

    if sys.version_info < (3, 12):
        # aiohttp sends each body from a task, which begins at once where Python lets it. Here it takes a turn of the
        # loop, and a twentieth of what a request costs.
        async def send(self, conn: Connection) -> aiohttp.ClientResponse:
            """Sends the head, and a small body with it."""
            body, protocol = getattr(self, "_body", None), conn.protocol  # an aiohttp without it sends bodies itself
            size = body.size if isinstance(body, aiohttp.BytesPayload) else None
            if size is None or size > _SMALL or protocol is None or protocol.writing_paused:
                return await super().send(conn)
            assert isinstance(body, aiohttp.BytesPayload)
            self._body = None
            response = await super().send(conn)
            if protocol.transport is not None:  # else it is lost, and the answer does not come
                protocol.transport.write(await body.as_bytes())
            return response


def upstream_session(
    connector: aiohttp.BaseConnector, timeout: aiohttp.ClientTimeout, headers: Mapping[str, str] | None = None
) -> aiohttp.ClientSession:
    """A session that keeps no cookies and passes bodies as they come. `headers`: sent with every request."""
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        request_class=_AsGiven,
    )
