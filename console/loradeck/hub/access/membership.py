"""Membership: how nodes join the fleet, and what the holder of a node's certificate may do.

A join token is good for one node, once, and for a short time. The key that a node makes itself is bound to its name
when it joins. A certificate is a statement about that key, and whether it still counts is looked up at each request.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from loradeck.hub.access.auth import Caller, Tokens
from loradeck.hub.access.authority import HERE, Authority, Shown, Stage, check_hosts, pem_of, read_shown
from loradeck.rules.certificates import May, may
from loradeck.rules.errors import Refused
from loradeck.schemas.ids import Role
from loradeck.schemas.membership import (
    GATEWAY_NAME,
    JOIN_PATH,
    RENEW_PATH,
    AuthorityState,
    Invitation,
    Joined,
    JoinRequest,
    JoinToken,
)
from loradeck.schemas.tenant import Credential, TokenRecord
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.access.membership")


@dataclass(eq=False)
class Membership:
    """The nodes that may join, and those that have.

    `_save` makes the record of a token or of a key durable; `_now_ms` is the wall clock.
    """

    authority: Authority
    _tokens: Tokens
    _save: Callable[[TokenRecord], Awaitable[None]]
    _now_ms: Callable[[], int]
    _joining: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    until_ms: dict[str, int] = field(default_factory=dict, init=False)
    """Node -> when the newest certificate ends that it has shown or was given since the hub started."""

    # ---- who is there ----------------------------------------------------------------------------------------

    def caller(self, der: bytes | None, bearer: str | None, path: str) -> Caller:
        """The caller at the other end of a connection of the nodes' listener.

        Args:
            der: the certificate that its handshake has proved; None: it showed none.
            bearer: the token of its request.
            path: what it asks for; whoever may only join, or only renew, may ask for nothing else.

        Raises: Refused `unauthenticated`, `certificate_revoked` or `certificate_expired`.
        """
        if der is not None:
            return self._member(read_shown(der), path)
        if path == JOIN_PATH:
            return self._tokens.enter(self._join_token(bearer))
        raise Refused(
            "unauthenticated",
            "no certificate of a node",
            detail="the nodes' listener of a hub is for nodes that have joined",
            fix="loradeck-agent join; consoles and commands use the address of --listen",
        )

    def _member(self, shown: Shown, path: str) -> Caller:
        record = self._tokens.get(_id(shown))
        bound = record is not None and record.node == shown.node
        revoked = record is not None and (record.revoked or not bound)  # a key is one node's
        revoked = revoked or shown.key in self._tokens.revoked
        allowed = may(shown.validity, self._now_ms(), bound=bound, revoked=revoked)
        if allowed is May.NOTHING:
            raise Refused(
                "certificate_revoked" if revoked else "certificate_unknown",
                f"the certificate of {shown.node} counts no more",
                fix=f"loradeck node token {shown.node} on the hub's host, and join again with it",
            )
        if allowed is May.RENEW and path != RENEW_PATH:
            self._shown(shown)
            raise Refused(
                "certificate_expired",
                f"the certificate of {shown.node} has expired",
                fix="the agent renews it by itself while it runs",
            )
        self._shown(shown)
        if record is not None:
            return replace(self._tokens.enter(record), joined=True, hosts=shown.hosts)
        return Caller(
            actor=shown.node, role=Role.AGENT, node=shown.node, token=_id(shown), joined=True, hosts=shown.hosts
        )

    def _shown(self, shown: Shown) -> None:
        self.until_ms[shown.node] = max(shown.validity.until_ms, self.until_ms.get(shown.node, 0))

    # ---- joining ---------------------------------------------------------------------------------------------

    async def invite(self, invitation: Invitation, by: str) -> tuple[JoinToken, TokenRecord]:
        """Makes a join token, and its record.

        Raises: Refused `invalid_request`: a host that is none, or the hub's own.
        """
        hosts = invitation.hosts or (invitation.node,)
        check_hosts(hosts)
        hosts = (*hosts, *([GATEWAY_NAME] if invitation.gateway else []))
        taken = sorted(set(hosts) & set(self.authority.served().hosts) - set(HERE[1:]))
        if taken:
            fix = "a node that could be taken for the hub is none; give each a name of its own"
            raise Refused("invalid_request", f"{taken[0]} is the hub's own name", fix=fix)
        if any(r.name == invitation.node != r.node and self._tokens.is_valid(r) for r in self._tokens.all()):
            fix = "events name both: give the node another name, or revoke that token first"
            raise Refused("exists", f"a valid token is named {invitation.node}", fix=fix)
        token_id, now = secrets.token_hex(8), self._now_ms()
        token = f"{PREFIX}{token_id}_{secrets.token_hex(32)}_{self.authority.fingerprint}"
        expires = now + invitation.lifetime_s * 1000
        record = TokenRecord(
            id=token_id,
            name=invitation.node,
            role=Role.AGENT,
            node=invitation.node,
            kind=Credential.JOIN,
            sha256=hashlib.sha256(token.encode()).hexdigest(),
            created_ms=now,
            created_by=by,
            expires_ms=expires,
            hosts=hosts,
        )
        await self._keep(record)
        return JoinToken(id=token_id, token=token, expires_ms=expires), record

    async def join(
        self, bearer: str | None, request: JoinRequest
    ) -> tuple[Joined, TokenRecord, TokenRecord, list[TokenRecord]]:
        """Lets a node in.

        Returns its certificate, its key, the join token, which is used up, and the keys under its name until now, which
        are to be revoked.

        Raises: Refused: the token is used, expired or another node's, or the request is none; nothing has changed.
        """
        async with self._joining:
            token, now = self._join_token(bearer), self._now_ms()
            if request.node != token.node:
                fix = "correct `node` in agent.toml, or make a token for this one; the token is still good"
                raise Refused("wrong_node", f"this join token is for {token.node}, not {request.node}", fix=fix)
            shown = self.authority.sign_request(request.csr, request.node, token.hosts, now)
            if self._tokens.get(_id(shown)) is not None:
                raise Refused("exists", "this key has joined before", fix="let `loradeck-agent join` make a new one")
            before = [r for r in self._tokens.of_node(request.node) if r.kind is Credential.KEY and not r.revoked]
            used, key = token.model_copy(update={"revoked": True}), self._key(shown, token.created_by)
            key = key.model_copy(update={"roots": self.authority.roots})
            await self._keep(used)
            await self._keep(key)
        return self._joined(shown), key, used, before

    async def bind(self, der: bytes) -> TokenRecord | None:
        """Records the key of a certificate that counts and is not on record: this hub was restored from a backup.

        Returns the record; None: it was there, or cannot be written now.
        """
        shown = read_shown(der)
        if self._tokens.get(_id(shown)) is None:
            try:
                key = self._key(shown, "its certificate")
                await self._keep(key)
                return key
            except StoreError as error:
                log.error("the key of %s is not on record yet: %s", shown.node, error)  # it links all the same
        return None

    async def renew(self, der: bytes) -> Joined:
        """A new certificate for the key of one that may be renewed; the caller has been asked for that."""
        shown = self.authority.renew(read_shown(der), self._now_ms())
        record = self._tokens.get(_id(shown))
        if record is not None and record.roots != self.authority.roots:
            await self._keep(record.model_copy(update={"roots": self.authority.roots}))
        return self._joined(shown)

    # ---- another authority -----------------------------------------------------------------------------------

    def behind(self) -> tuple[str, ...]:
        """The nodes that have joined and were not given the authorities that are trusted now."""
        keys = [r for r in self._tokens.all() if r.kind is Credential.KEY and not r.revoked]
        return tuple(sorted({str(key.node) for key in keys if key.roots != self.authority.roots}))

    def rotate(self, *, force: bool) -> AuthorityState:
        """Takes the next step of replacing the authority. Raises: Refused `nodes_behind`: some lack the last step."""
        behind = self.behind() if self.authority.stage is not Stage.ALONE else ()
        if behind and not force:
            raise Refused(
                "nodes_behind",
                "nodes have not been given the authorities that are trusted now",
                detail=", ".join(behind[:8]) + (f" and {len(behind) - 8} more" if len(behind) > 8 else ""),
                fix="wait until they are linked and have renewed; --force leaves them to join again",
                context={"nodes": list(behind)},
            )
        self.authority.rotate(self._now_ms())
        log.warning("authority stage=%s signs=%s", self.authority.stage, self.authority.fingerprint)
        return AuthorityState(stage=self.authority.stage.value, roots=self.authority.roots, behind=self.behind())

    def _join_token(self, bearer: str | None) -> TokenRecord:
        record = self._tokens.shown(bearer)
        if record is None or record.kind is not Credential.JOIN:
            raise Refused("unauthenticated", "no valid join token", fix=_AGAIN)
        if record.revoked or record.sha256 in self._tokens.revoked:
            raise Refused("join_token_used", "this join token was used or revoked", detail=record.id, fix=_AGAIN)
        if record.expires_ms is None or self._now_ms() > record.expires_ms:
            raise Refused("join_token_expired", "this join token has expired", detail=record.id, fix=_AGAIN)
        return record

    def _key(self, shown: Shown, by: str) -> TokenRecord:
        return TokenRecord(
            id=_id(shown),
            name=shown.node,
            role=Role.AGENT,
            node=shown.node,
            kind=Credential.KEY,
            sha256=shown.key,
            created_ms=self._now_ms(),
            created_by=by,
        )

    def _joined(self, shown: Shown) -> Joined:
        self._shown(shown)
        return Joined(
            node=shown.node,
            certificate=pem_of(shown),
            authority=self.authority.pem,
            from_ms=shown.validity.from_ms,
            until_ms=shown.validity.until_ms,
        )

    async def _keep(self, record: TokenRecord) -> None:
        await self._save(record)
        self._tokens.put(record)


PREFIX = "ldj_"
"""Begins a join token, as `ld_` begins any other."""

_AGAIN = "loradeck node token NODE on the hub's host makes another one"


def _id(shown: Shown) -> str:
    """The id under which a key is on record."""
    return f"key-{shown.key[:16]}"
