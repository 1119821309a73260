"""A provider that hands out keys over HTTP and signs any token that a test makes up. It can be stopped and started."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

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
        self.waits = 1  # answers "pending" so often before somebody agrees
        self.life_s = 3600
        self.says_no = ""  # an error of OAuth that is answered to whoever wants tokens
        self.refresh = 0  # refresh tokens that were given; each is taken once
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
        target = (await reader.readline()).split()[1].decode()
        length = 0
        while line := (await reader.readline()).strip():
            name, _, value = line.lower().partition(b":")
            length = int(value) if name == b"content-length" else length
        form = dict(parse_qsl((await reader.readexactly(length)).decode()))
        status, body = self._answered(target, form)
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n".encode() + text)
        await writer.drain()
        writer.close()

    def _answered(self, target: str, form: dict[str, str]) -> tuple[int, Any]:
        if target == "/keys":
            return 200, {"keys": [key.as_dict(private=False) for key in self.keys]}
        if target == "/device":
            code = {"device_code": "d", "user_code": "WDJB-MJHT", "verification_uri": f"{self.issuer}/go"}
            return 200, code | {"expires_in": 60, "interval": 0.05}
        if target == "/revoke":
            self.refresh += 1
            return 200, {}
        if target == "/token":
            return self._token(form)
        self.asked += 1
        names = {"jwks_uri": "keys", "device_authorization_endpoint": "device", "token_endpoint": "token"}
        return 200, {
            name: f"{self.issuer}/{path}" for name, path in (names | {"revocation_endpoint": "revoke"}).items()
        } | {"issuer": self.issuer}

    def _token(self, form: dict[str, str]) -> tuple[int, Any]:
        assert form["client_id"] == CLIENT
        if self.says_no:
            return 400, {"error": self.says_no}
        if form["grant_type"] == "refresh_token":
            if form["refresh_token"] != f"r{self.refresh}":
                return 400, {"error": "invalid_grant"}
        elif self.waits:
            self.waits -= 1
            return 400, {"error": "authorization_pending"}
        self.refresh += 1
        token = self.token(exp=int(time.time()) + self.life_s, jti=str(self.refresh))
        return 200, {
            "id_token": token,
            "refresh_token": f"r{self.refresh}",
            "access_token": "a",
            "token_type": "Bearer",
        }


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
