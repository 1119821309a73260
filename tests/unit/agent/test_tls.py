"""A hub on another host: its certificate is checked against the configured authority, for link and calls alike."""

from __future__ import annotations

import asyncio
import http
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from loradeck.client.backoff import Backoff
from loradeck.schemas.ids import Wire
from loradeck.schemas.link import Hello, Welcome
from loradeck.schemas.log import GENESIS
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import Unreachable
from loradeck_agent.host.identity import HubLogin
from loradeck_agent.uplink.hub_api import HubApi
from loradeck_agent.uplink.link import Link


@dataclass(frozen=True)
class Secure:
    port: int
    certificate: Path
    folder: Path

    def config(self, *, ca: bool) -> AgentConfig:
        path = self.folder / f"agent-{ca}.toml"
        (self.folder / "t").write_text("t")
        (self.folder / "t").chmod(0o600)
        path.write_text(
            f'node = "gpu-01"\nhub = "https://127.0.0.1:{self.port}"\ntoken = "t"\nstate = "s"\n'
            + (f'ca = "{self.certificate.name}"\n' if ca else "")
            + '[router]\nlisten = "127.0.0.1:1"\n'
        )
        return AgentConfig.load(path)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.fail("no openssl on PATH: no certificate can be made to serve with; install it")
    certificate, key = folder / "c.pem", folder / "k.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
            "-days",
            "2",
            "-subj",
            "/CN=hub",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def link(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(Welcome(epoch=1, rev=1, hash=GENESIS).model_dump_json())
        await socket.wait_closed()

    def blob(_: ServerConnection, request: Request) -> Response | None:
        if not request.path.startswith("/v1/blobs/"):
            return None
        headers = Headers({"content-length": "5"})
        return Response(http.HTTPStatus.OK, "OK", headers, b"bytes")

    async with serve(link, "127.0.0.1", 0, ssl=context, process_request=blob) as server:
        yield Secure(next(iter(server.sockets)).getsockname()[1], certificate, tmp_path)


async def one_try(config: AgentConfig) -> tuple[bool, str | None]:
    """Whether a link was made, and else what its owner was told."""
    welcomed = asyncio.Event()

    async def hello() -> Hello:
        return Hello(node="gpu-01", boot="b", version="0", epoch=0, rev=0, hash=GENESIS, replicas=())

    async def handle(message: Wire) -> None:
        welcomed.set()

    async def changed(connected: bool) -> None:
        pass

    noted = asyncio.Event()
    link = Link(
        config,
        HubLogin(config).now,
        hello=hello,
        handle=handle,
        changed=changed,
        noted=noted.set,
        backoff=Backoff(5, 5),
    )
    task = asyncio.create_task(link.run())
    async with asyncio.timeout(60):
        await noted.wait()
    error = link.status.error
    if error is None:
        async with asyncio.timeout(60):
            await welcomed.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return welcomed.is_set(), error


async def test_with_its_authority_the_hub_is_linked_and_called(secure: Secure) -> None:
    assert await one_try(secure.config(ca=True)) == (True, None)
    config = secure.config(ca=True)
    hub = HubApi(config, HubLogin(config).now)
    got: list[bytes] = []
    await hub.blob("a" * 64, got.append)
    hub.close()
    assert b"".join(got) == b"bytes"


async def test_without_its_authority_the_hub_is_sent_no_token(secure: Secure) -> None:
    linked, error = await one_try(secure.config(ca=False))
    assert not linked
    assert error is not None
    assert "CERTIFICATE_VERIFY_FAILED" in error
    config = secure.config(ca=False)
    hub = HubApi(config, HubLogin(config).now)
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        await hub.blob("a" * 64, lambda _: None)
