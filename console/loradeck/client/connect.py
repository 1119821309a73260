"""Connections to a hub: its endpoint and a WebSocket to it, over TLS, loopback or its own Unix socket.

Proxies named in the environment are not used: a console connects to its hub directly or not at all.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loradeck.client.config import Context, read_token
from loradeck.client.errors import ConfigError
from loradeck.rules.moves.steering import next_asked

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from loradeck.client.sign_in import TokenSource

CONNECT_S = 5.0
READ_S = 15.0
MAX_MESSAGE = 64 * 1024 * 1024
"""Largest feed message, in bytes; a full list of 10,000 rows stays far below."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A hub's address with token and TLS settings, ready to connect to. Its repr leaves out the token."""

    where: str
    base_url: str
    socket: Path | None
    token: str | None
    tls: ssl.SSLContext | None
    signed_in: TokenSource | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.where!r})"

    async def headers(self) -> dict[str, str]:
        """HTTP headers that authenticate a request now; empty without a token.

        Raises: ConfigError: the sign-in has ended.
        """
        token = await self.signed_in.token() if self.signed_in is not None else self.token
        return {"authorization": f"Bearer {token}"} if token else {}


def endpoint(context: Context) -> Endpoint:
    """Reads the token and certificate authority of a context and returns its endpoint.

    Raises: ConfigError: the token file is missing or unsafe, nobody has signed in, or the certificate authority's file
    is unusable.
    """
    signed_in: TokenSource | None = None
    if context.issuer is not None and context.token_file is None:
        from loradeck.client.sign_in import TokenSource  # nothing that others wait for

        signed_in = TokenSource(context)
    token = read_token(context.token_file) if context.token_file is not None else None
    url = (context.url or "") if context.socket is None else "http://hub"
    if token is None and signed_in is None and context.socket is None:
        raise ConfigError(
            "this hub needs a token, and none is given",
            detail=context.where,
            fix="give --token-file FILE (the hub's owner makes one: loradeck token create --out FILE)",
        )
    tls = _tls(context.ca_file) if url.startswith("https:") else None
    return Endpoint(where=context.where, base_url=url, socket=context.socket, token=token, tls=tls, signed_in=signed_in)


class Hubs:
    """The hubs of a context, of which one is active. All that share this object ask the same one.

    Attributes:
        asked: the address of the hub that is asked now.
    """

    def __init__(self, context: Context) -> None:
        self._contexts = context.each()
        self.addresses = context.addresses
        self.asked = self.addresses[0]

    @property
    def several(self) -> bool:
        """Whether there is another one to ask."""
        return len(self.addresses) > 1

    def endpoint(self, address: str | None = None) -> Endpoint:
        """The endpoint of the hub at an address, or of the one that is asked now; its token and files are read again.

        Raises: ConfigError: as `endpoint`.
        """
        return endpoint(self._contexts[self.addresses.index(address or self.asked)])

    def turn_from(self, address: str, named: str | None = None) -> None:
        """Asks another hub than the one at this address, which does not answer, or names the active one."""
        if self.asked == address:
            self.asked = next_asked(self.addresses, address, named)


@contextlib.asynccontextmanager
async def websocket(point: Endpoint, path: str) -> AsyncIterator[ClientConnection]:
    """Opens a WebSocket to `path` of the hub, without compression: rows are small and many.

    Raises: OSError, websockets.exceptions.WebSocketException: it could not be opened.
    """
    from websockets.asyncio.client import connect, unix_connect

    uri = point.base_url.replace("http", "ws", 1) + path
    how: dict[str, Any] = {
        "additional_headers": await point.headers(),
        "open_timeout": CONNECT_S,
        "close_timeout": 1,
        "ping_interval": None,  # the hub's status every two seconds is the heartbeat
        "max_size": MAX_MESSAGE,
        "compression": None,
        "user_agent_header": None,
    }
    if point.socket is not None:
        connecting = unix_connect(path=str(point.socket), uri=uri, **how)
    else:
        connecting = connect(uri, ssl=point.tls, proxy=None, **how)
    async with connecting as connection:
        yield connection


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "the certificate authority's file cannot be used", detail=f"{ca_file}: {error}", fix="give a PEM file"
        ) from None
