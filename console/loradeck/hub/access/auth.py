"""Authentication and roles: the caller of each request, and the one place where roles are enforced.

A token is `ld_<id>_<secret>`; the store keeps the SHA-256 of the whole of it. Whoever reaches the hub's own
socket has passed the file system (0600 in a 0700 folder) and may do everything a releaser may, create tokens
and recover.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import Request
from starlette.requests import HTTPConnection

from loradeck.rules.errors import Refused
from loradeck.schemas.ids import Role
from loradeck.schemas.tenant import TokenCreate, TokenRecord

LOCAL = "loradeck.local"
"""The key in an ASGI scope that marks connections over the hub's own socket."""

CALLER = "loradeck.caller"
"""The key in an ASGI scope of the caller, who was authenticated before anything else is done."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The caller of a request.

    `node` is set for agents' tokens. `token` is the id of the token; None: it came over the own socket.
    """

    actor: str
    role: Role
    local: bool = False
    node: str | None = None
    token: str | None = None

    def may(self, least: Role, *, agent: bool = False) -> bool:
        """Whether this caller has at least a role; agents stand apart and may only what names them."""
        return agent if self.role is Role.AGENT else self.role.covers(least)


class Tokens:
    """All tokens, in memory as in the store; withdrawn ones are kept and refused."""

    def __init__(self, records: Iterable[TokenRecord]) -> None:
        self._records = {r.id: r for r in records}

    def all(self) -> list[TokenRecord]:
        """All tokens ever created, oldest first."""
        return sorted(self._records.values(), key=lambda r: (r.created_ms, r.id))

    def get(self, token_id: str) -> TokenRecord | None:
        """A token by its id; None: there is none."""
        return self._records.get(token_id)

    def put(self, record: TokenRecord) -> None:
        """Adds a token, or replaces its record."""
        self._records[record.id] = record

    def caller(self, bearer: str | None) -> Caller:
        """The caller that a bearer token belongs to.

        Raises: Refused `unauthenticated`. It never names the reason: a guesser learns nothing from it.
        """
        parts = (bearer or "").split("_")
        record = self._records.get(parts[1]) if len(parts) == 3 else None
        digest = hashlib.sha256((bearer or "").encode()).hexdigest()
        known = hmac.compare_digest(digest, record.sha256 if record else "0" * 64)
        if record is None or not known or record.revoked:
            raise Refused(
                "unauthenticated",
                "no valid token",
                detail="the Authorization header has no token that this hub knows",
                fix="loradeck token create on the hub's host, and pass its file by path",
            )
        return Caller(actor=record.name, role=Role(record.role), node=record.node, token=record.id)


def new_token(request: TokenCreate, by: str) -> tuple[TokenRecord, str]:
    """Creates a token. Returns its record, and the token itself, which is shown once.

    Raises: Refused `invalid_request` for an unknown role, or a node where none belongs.
    """
    if request.role not in set(Role):
        raise Refused("invalid_request", f"no role {request.role!r}", fix=f"one of {', '.join(Role)}")
    if (request.node is not None) != (request.role == Role.AGENT):
        raise Refused(
            "invalid_request",
            "a node belongs to an agent's token and to no other",
            detail=f"role {request.role}, node {request.node}",
            fix="--role agent --node NAME, or another role without --node",
        )
    token_id = secrets.token_hex(8)
    token = f"ld_{token_id}_{secrets.token_hex(32)}"
    record = TokenRecord(
        id=token_id,
        name=request.name,
        role=request.role,
        node=request.node,
        sha256=hashlib.sha256(token.encode()).hexdigest(),
        created_ms=int(time.time() * 1000),
        created_by=by,
    )
    return record, token


def bearer_of(connection: HTTPConnection) -> str | None:
    """The bearer token of a request; None: it has none."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def caller_of(connection: HTTPConnection, tokens: Tokens) -> Caller:
    """The caller at the other end of a request or WebSocket.

    Over the own socket a token may still be presented, and then counts: that is how an agent on the hub's
    host can be bound to its node.

    Raises: Refused `unauthenticated`.
    """
    bearer = bearer_of(connection)
    if connection.scope.get(LOCAL) and bearer is None:
        client = connection.scope.get("client")
        return Caller(actor=client[0] if client else "local", role=Role.RELEASER, local=True)
    return tokens.caller(bearer)


def check(caller: Caller, least: Role, *, agent: bool = False) -> Caller:
    """The caller, if it has at least this role (or is an agent, where `agent`).

    Raises: Refused `forbidden`.
    """
    if not caller.may(least, agent=agent):
        need = f"{least.value} or agent" if agent else least.value
        raise Refused(
            "forbidden",
            f"this needs the role {need}",
            detail=f"{caller.actor} is {caller.role.value}",
            fix="ask somebody with that role, or for a token of it",
        )
    return caller


def authenticated(connection: HTTPConnection) -> Caller:
    """The caller of a request or WebSocket that has passed the hub's door."""
    caller: Caller = connection.scope[CALLER]
    return caller


@dataclass(frozen=True)
class Allowed:
    """A FastAPI dependency: the caller, who has at least this role (or is an agent, where `agent`).

    `least` None: it came over the hub's own socket and without a token. `access.routes` asks it before a body is read.
    """

    least: Role | None
    agent: bool = False

    async def __call__(self, request: Request) -> Caller:
        """The caller of a request.

        Raises: Refused `forbidden` or `local_only`.
        """
        return self.check(authenticated(request))

    def check(self, caller: Caller) -> Caller:
        """The caller, who may do this.

        Raises: Refused `forbidden` or `local_only`.
        """
        if self.least is not None:
            return check(caller, self.least, agent=self.agent)
        if not caller.local:
            raise Refused(
                "local_only",
                "this is only done on the hub's host",
                detail=f"{caller.actor} came in over TCP or with a token",
                fix="run it on the hub's host, without --hub and without a token",
            )
        return caller
