"""The peer of the router and the gateway: the same proxying in bare aiohttp, client and server, on uvloop.

It reads a request's JSON, names the model as the engine does, and passes the answer on: whole, or piece by piece where
it is a stream. It knows no tenant, looks at no answer, counts nothing and has one engine, which it reaches over a Unix
socket, or over mutual TLS with the certificate that it is given.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl

import aiohttp
import uvloop
from aiohttp import web

PASSED_ON = ("Authorization",)
"""Headers of a request that the engine gets as well."""


class BareProxy:
    """One engine's proxy. `model`: the engine's name for what every caller asks for."""

    def __init__(self, session: aiohttp.ClientSession, engine: str, model: str) -> None:
        self._session = session
        self._engine = engine
        self._model = model

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Passes one request and its answer on."""
        body = await request.json()
        body["model"] = self._model
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        async with self._session.post(self._engine + request.path, json=body, headers=headers) as answer:
            if answer.content_type != "text/event-stream":
                whole = await answer.read()
                return web.Response(status=answer.status, body=whole, content_type=answer.content_type)
            stream = web.StreamResponse(status=answer.status, headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            async for piece in answer.content.iter_any():
                await stream.write(piece)
            await stream.write_eof()
            return stream


def _mutual_tls(certificate: str, authority: str) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=authority)
    tls.load_cert_chain(certificate)
    return tls


async def _serve(port: int, engine: str, model: str, tls: ssl.SSLContext | None) -> None:
    """Serves for ever. `engine`: a Unix socket's path, or `HOST:PORT` where `tls` is given."""
    connector = aiohttp.UnixConnector(engine, limit=0) if tls is None else aiohttp.TCPConnector(ssl=tls, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        proxy = BareProxy(session, "http://engine" if tls is None else f"https://{engine}", model)
        runner = web.ServerRunner(web.Server(proxy.handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine", required=True, help="a Unix socket's path, or HOST:PORT with a certificate")
    parser.add_argument("--model", default="acme")
    parser.add_argument("--certificate", help="with its key")
    parser.add_argument("--authority")
    given = parser.parse_args()
    secure = _mutual_tls(given.certificate, given.authority) if given.certificate else None
    uvloop.run(_serve(given.port, given.engine, given.model, secure))
