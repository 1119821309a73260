"""Authentication and roles: the caller of each request, and the one place where roles and tenants are enforced.

A token is `ld_<id>_<secret>`; the store keeps the SHA-256 of the whole of it. Whoever reaches the hub's own
socket has passed the file system (0600 in a 0700 folder) and may do everything a releaser may, create tokens
and recover.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from fastapi import Request
from starlette.requests import HTTPConnection

from loradeck.rules.access import Action, Scope, highest, lowest, may, may_somewhere, role_at
from loradeck.rules.errors import Refused
from loradeck.schemas.ids import Role
from loradeck.schemas.log import FLEET
from loradeck.schemas.tenant import Credential, TokenCreate, TokenRecord

LOCAL = "loradeck.local"
"""The key in an ASGI scope that marks connections over the hub's own socket."""

CERTIFICATE = "loradeck.certificate"
"""The key in the state of a connection to the nodes' listener of the certificate that its handshake has proved."""

CALLER = "loradeck.caller"
"""The key in an ASGI scope of the caller, who was authenticated before anything else is done."""

USED_EVERY_MS = 60_000
"""How exactly a token's last use is known, milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Caller(Scope):
    """The caller of a request, and what its token allows.

    `node` is set for agents' tokens, `labels` where the token says what that node is placed by. `token` is the id of
    the token, of somebody who has signed in `oidc:` and the subject; None: it came over the own socket. `joined`: a
    node that has shown its certificate, which is for these `hosts`. `action` is the call that it makes; None: the
    hub's own work, which is not asked.
    """

    actor: str
    local: bool = False
    node: str | None = None
    labels: Mapping[str, str] | None = None
    token: str | None = None
    joined: bool = False
    hosts: tuple[str, ...] = ()
    action: Action | None = None

    def sees(self, tenant: str) -> bool:
        """Tells whether the caller may make its call at a tenant, or for the fleet ('')."""
        return self.action is None or may(self, self.action, tenant)

    def at(self, *tenants: str) -> Caller:
        """The caller with its role at these tenants, the lowest of them; '' is the fleet.

        Raises: Refused `forbidden`, in the same words for tenants that do not exist.
        """
        for tenant in tenants:
            if not self.sees(tenant):
                raise _forbidden(self, tenant)
        roles = [role for tenant in tenants if (role := role_at(self, tenant)) is not None]
        return replace(self, role=lowest(roles)) if roles else self

    def checked(self, action: Action, tenant: str | None = None) -> Caller:
        """The caller as it makes a call: at a tenant, for the fleet (''), or wherever it may (None).

        Raises: Refused `forbidden`.
        """
        caller = replace(self, action=action)
        if tenant is not None:
            return caller.at(tenant)
        if not may_somewhere(self, action):
            raise _forbidden(caller)
        return caller


def _forbidden(caller: Caller, tenant: str | None = None) -> Refused:
    action = caller.action
    assert action is not None
    if caller.backward and not action.is_backward:
        return provider_silent(caller)
    role, what = caller.role if tenant is None else role_at(caller, tenant), action.least.value
    if role is None:
        return Refused(
            "forbidden",
            "this token does not cover this tenant"
            if tenant
            else "this call concerns every tenant; this token covers only some",
            detail=f"{caller.actor}: {', '.join(sorted(caller.tenants or ()))}",
            fix="ask for a token that covers it" if tenant else "ask for a token without a tenant limit",
        )
    if caller.resources is not None and action.resource not in caller.resources:
        return Refused(
            "forbidden",
            f"this token does not cover {action.resource}",
            detail=f"{caller.actor}: {', '.join(sorted(caller.resources))}",
            fix="ask for a token that covers it",
        )
    return Refused(
        "forbidden",
        f"this needs the role {what} or agent" if action.agent else f"this needs the role {what}",
        detail=f"{caller.actor} is {role.value}",
        fix="ask somebody with that role, or for a token of it",
    )


def provider_silent(caller: Caller) -> Refused:
    """Returns the refusal of a call other than R, F or hold by an expired sign-in whose provider does not answer."""
    return Refused(
        "provider_silent",
        "the sign-in has expired and its provider is silent: only R, F and hold are left of it",
        detail=caller.actor,
        fix="sign in again once the provider answers, or act on the hub's host",
    )


class Tokens:
    """All tokens, in memory as in the store; withdrawn and expired ones are kept and refused.

    `now_ms` is the wall clock, in milliseconds since 1970 UTC.
    """

    def __init__(self, records: Iterable[TokenRecord], now_ms: Callable[[], int] = lambda: int(time.time() * 1000)):
        self._now_ms = now_ms
        self.revoked: frozenset[str] = frozenset()
        """Digests of revoked tokens and keys, by the list beside the keys of rows: the records may be older."""
        self._used: dict[str, int] = {}
        self.load(records)

    def load(self, records: Iterable[TokenRecord]) -> None:
        """Takes the tokens as the store has them now."""
        self._records = {r.id: r for r in records}
        self._expiring = {r.id for r in self._records.values() if self.is_valid(r) and r.expires_ms is not None}

    def all(self) -> list[TokenRecord]:
        """Lists all tokens ever created, oldest first."""
        return sorted(self._records.values(), key=lambda r: (r.created_ms, r.id))

    def get(self, token_id: str) -> TokenRecord | None:
        """A token by its id; None: there is none."""
        return self._records.get(token_id)

    def of_node(self, node: str) -> list[TokenRecord]:
        """Lists all tokens and keys of a node, oldest first."""
        return [record for record in self.all() if record.node == node]

    def put(self, record: TokenRecord) -> None:
        """Adds a token, or replaces its record."""
        self._records[record.id] = record
        if record.expires_ms is not None:
            self._expiring.add(record.id)

    def take_used(self) -> dict[str, int]:
        """Token id -> its last use, for the tokens whose last use is yet to be written."""
        used, self._used = self._used, {}
        return used

    def take_expired(self) -> list[str]:
        """The ids of the tokens that have expired since this was last asked."""
        expired = sorted(one for one in self._expiring if not self.is_valid(self._records[one]))
        self._expiring.difference_update(expired)
        return expired

    def caller(self, bearer: str | None) -> Caller:
        """The caller that a bearer token belongs to. Raises: Refused `unauthenticated`."""
        record = self.shown(bearer)
        if record is None or record.kind is not Credential.TOKEN or not self.is_valid(record):
            raise unauthenticated()
        return self.enter(record)

    def enter(self, record: TokenRecord) -> Caller:
        """The caller that a valid token or key belongs to; it was used now."""
        now = self._now_ms()
        if now - (record.last_used_ms or 0) >= USED_EVERY_MS:
            self._records[record.id] = record.model_copy(update={"last_used_ms": now})
            self._used[record.id] = now
        return Caller(
            actor=record.name,
            role=Role(record.role),
            tenants=record.tenants,
            resources=frozenset(record.resources) if record.resources is not None else None,
            node=record.node,
            labels=record.labels,
            token=record.id,
        )

    def create(self, request: TokenCreate, by: str) -> tuple[TokenRecord, str]:
        """Creates a token, which is yet to be `put`. Returns its record, and the token itself, which is shown once.

        Raises: Refused `invalid_request` for roles that do not fit, or a node where none belongs; `exists`, a valid
            token has that name.
        """
        _check_roles(request)
        if request.expires_ms is not None and request.expires_ms <= self._now_ms():
            raise Refused("invalid_request", "it would have expired already", detail="expires_ms", fix="a later time")
        if any(r.name == request.name and self.is_valid(r) for r in self._records.values()):
            raise Refused(
                "exists",
                f"a valid token is named {request.name}",
                detail="events name tokens: two of one name could not be told apart",
                fix="another name, or revoke that one first: loradeck token ls",
            )
        token_id = secrets.token_hex(8)
        token = f"ld_{token_id}_{secrets.token_hex(32)}"
        record = TokenRecord(
            **request.model_dump(),
            id=token_id,
            sha256=hashlib.sha256(token.encode()).hexdigest(),
            created_ms=self._now_ms(),
            created_by=by,
        )
        return record, token

    def is_valid(self, record: TokenRecord) -> bool:
        """Tells whether a token or key is neither revoked nor expired."""
        if record.revoked or record.sha256 in self.revoked:
            return False
        return record.expires_ms is None or self._now_ms() < record.expires_ms

    def shown(self, bearer: str | None) -> TokenRecord | None:
        """The record of a token, whatever it is still good for; None: there is none of this secret."""
        parts = (bearer or "").split("_")
        record = self._records.get(parts[1]) if len(parts) > 2 else None
        digest = hashlib.sha256((bearer or "").encode()).hexdigest()
        return record if hmac.compare_digest(digest, record.sha256 if record else "0" * 64) else None


def _check_roles(request: TokenCreate) -> None:
    if request.role not in set(Role):
        raise Refused("invalid_request", f"no role {request.role!r}", fix=f"one of {', '.join(Role)}")
    if request.labels is not None and request.role != Role.AGENT:
        raise Refused("invalid_request", "labels are of a node, and this is no agent's token", detail="labels")
    if (request.node is not None) != (request.role == Role.AGENT):
        raise Refused(
            "invalid_request",
            "a node belongs to an agent's token and to no other",
            detail=f"role {request.role}, node {request.node}",
            fix="--role agent --node NAME, or another role without --node",
        )
    if request.tenants is None:
        return
    roles = set(request.tenants.values())
    named = ", ".join(f"{tenant}={role}" for tenant, role in request.tenants.items()) or "none"
    if Role.AGENT in (request.role, *roles) or not roles or highest(roles) != request.role:
        raise Refused(
            "invalid_request",
            "a token for some tenants has a person's role at each, of which `role` is the highest",
            detail=f"role {request.role}, tenants {named}",
            fix="--role ROLE --tenant NAME, or --tenant NAME=ROLE for a lesser role there",
        )


def bearer_of(connection: HTTPConnection) -> str | None:
    """The bearer token of a request; None: it has none."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def certificate_of(connection: HTTPConnection) -> bytes | None:
    """The certificate (DER) that a node has shown; None: it showed none, or this is not the nodes' listener."""
    found: bytes | None = connection.scope.get("state", {}).get(CERTIFICATE)
    return found


def unauthenticated() -> Refused:
    """The refusal of whoever shows no valid token. It never names the reason: a guesser learns nothing from it."""
    return Refused(
        "unauthenticated",
        "no valid token",
        detail="the Authorization header has no token that this hub knows",
        fix="loradeck login, or a token's file: loradeck token create on the hub's host",
    )


def caller_of(connection: HTTPConnection, known: Callable[[str | None], Caller]) -> Caller:
    """The caller at the other end of a request or WebSocket. `known`: whose a bearer token is, as `Tokens.caller`.

    Over the own socket a token may still be presented, and then counts: that is how an agent on the hub's
    host can be bound to its node.

    Raises: Refused `unauthenticated`.
    """
    bearer = bearer_of(connection)
    if connection.scope.get(LOCAL) and bearer is None:
        client = connection.scope.get("client")
        return Caller(actor=client[0] if client else "local", role=Role.RELEASER, local=True)
    return known(bearer)


def authenticated(connection: HTTPConnection) -> Caller:
    """The caller of a request or WebSocket that has passed the hub's door."""
    caller: Caller = connection.scope[CALLER]
    return caller


@dataclass(frozen=True)
class Allowed:
    """A FastAPI dependency: the caller, who may make this call. `access.routes` asks it before a body is read.

    A call is made at the tenant of its path, and without one for the whole fleet. With `each` the call itself asks
    `Caller.at` or `Caller.sees` of every tenant that it is about.

    Args:
        least: the role that it needs. None: it came over the hub's own socket and without a token.
        agent: agents may make it too.
        backward: it puts something back, and is left of a sign-in whose provider is silent.
    """

    least: Role | None
    agent: bool = False
    each: bool = False
    backward: bool = False

    async def __call__(self, request: Request) -> Caller:
        """The caller of a request, as it was checked."""
        return authenticated(request)

    def check(self, caller: Caller, resource: str, tenant: str | None) -> Caller:
        """The caller, who may make this call. `tenant`: that of its path.

        Raises: Refused `forbidden` or `local_only`.
        """
        if self.least is not None:
            action = Action(resource=resource, least=self.least, agent=self.agent, backward=self.backward)
            return caller.checked(action, None if self.each else tenant or FLEET)
        if not caller.local:
            raise Refused(
                "local_only",
                "this is only done on the hub's host",
                detail=f"{caller.actor} came in over TCP or with a token",
                fix="run it on the hub's host, without --hub and without a token",
            )
        return caller
