"""A provider that hands out keys over HTTP and signs any token that a test makes up. It can be stopped and started."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

from loradeck.hub.access import provider
from loradeck.schemas.sign_in import OidcSettings

CLIENT = "loradeck"
FIRST = RSAKey.generate_key(2048, {"kid": "first", "use": "sig", "alg": "RS256"})


class FakeProvider:
    """One issuer with one RSA key, or several."""

    def __init__(self) -> None:
        self.port = 0
        self.keys: list[Any] = [FIRST]
        self.asked = 0
        self._server: asyncio.Server | None = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, **more: Any) -> OidcSettings:
        groups = {
            "admins": {"role": "releaser"},
            "on-call": {"role": "operator"},
            "acme": {"role": "operator", "tenants": ["acme"]},
        }
        return OidcSettings.model_validate(
            {"issuer": self.issuer, "client_id": CLIENT, "groups": groups, "name_claim": "name", **more}
        )

    def claims(self, **more: Any) -> dict[str, Any]:
        """The claims of a good token of somebody on call; None leaves a claim out."""
        now = int(time.time())
        usual = {"iss": self.issuer, "aud": CLIENT, "sub": "s-1", "iat": now, "exp": now + 3600, "name": "Ann"}
        return {name: value for name, value in (usual | {"groups": ["on-call"]} | more).items() if value is not None}

    def token(self, header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        used = header or {"alg": "RS256", "kid": "first"}
        return jwt.encode(used, self.claims(**claims), key or self.keys[0], algorithms=[used["alg"]])

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        while (await reader.readline()).strip():
            pass
        if b"openid-configuration" in line:
            self.asked += 1
            body: Any = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        else:
            body = {"keys": [key.as_dict(private=False) for key in self.keys]}
        text = json.dumps(body).encode()
        head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\nconnection: close\r\n"
        )
        writer.write(head.encode() + b"\r\n" + text)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def fake_provider(look_s: float = 0.05) -> AsyncIterator[FakeProvider]:
    """A provider that a hub asks every `look_s` seconds."""
    made = FakeProvider()
    await made.start()
    before = provider.LOOK_S, provider.SPACING_S
    provider.LOOK_S, provider.SPACING_S = look_s, look_s / 2
    try:
        yield made
    finally:
        provider.LOOK_S, provider.SPACING_S = before
        await made.stop()
