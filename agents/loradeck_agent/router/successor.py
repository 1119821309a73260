"""The router after this one, as a router that has handed over sees it: it answers what still comes in here.

A caller's connection outlives the right to admit, and a request that comes over it must neither be admitted here nor
fail. So it goes to the router that has the right now, over a Unix socket of their user's own, and the answer comes back
as that router gives it. The connection ends with the answer.
"""

import asyncio
import logging
import time
from pathlib import Path

import aiohttp
from aiohttp import web

log = logging.getLogger(__name__)

PATIENCE_S = 30.0
"""How long it may take until a router is there that answers: one that has crashed is started again."""

_RETRY_S = 0.05
OF_THE_CONNECTION = {"connection", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
OF_THE_CONNECTION |= {"content-encoding", "content-length"}
"""Headers that are not passed on: they are about one connection, or about a body that was read."""


class SuccessorLost(Exception):
    """The router after this one does not answer."""


class Successor:
    """Calls to the router after this one, which takes them on the socket at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session: aiohttp.ClientSession | None = None

    async def answer(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        """The successor's answer to a request of which the body was read.

        Raises: SuccessorLost: it has none, and nothing was sent to the caller.
        """
        session = self._session = self._session or aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(self.path), limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in OF_THE_CONNECTION]
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                async with session.request(
                    request.method, f"http://router{request.rel_url}", headers=headers, data=body, allow_redirects=False
                ) as answer:
                    return await _passed(request, answer)
            except aiohttp.ClientConnectorError as error:  # nothing was sent
                if time.monotonic() > until:
                    raise SuccessorLost(str(error)) from error
                await asyncio.sleep(_RETRY_S)
            except aiohttp.ClientError as error:
                raise SuccessorLost(str(error)) from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()


async def _passed(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in OF_THE_CONNECTION}
    if answer.content_length is not None:
        return web.Response(status=answer.status, headers=headers, body=await answer.read())
    passed = web.StreamResponse(status=answer.status, headers=headers)
    passed.force_close()
    await passed.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await passed.write(chunk)
    except aiohttp.ClientError as error:
        log.error("the router after this one was lost in mid-answer: %s", error)
        if request.transport is not None:
            request.transport.close()  # without the ending that a client takes for success
    return passed
