"""How a node joins the fleet: the person's invitation, the node's request, and what it gets."""

from pydantic import Field

from loradeck.schemas.ids import Name, Strict, Wire

AUTHORITY_PATH = "/v1/authority"
"""Where the nodes' listener tells everybody its authority's certificate, as PEM."""

JOIN_PATH = "/v1/join"
RENEW_PATH = "/v1/renew"

HUB_NAME = "hub.loradeck"
"""The name in a hub's certificate by which its nodes know it, whatever its address is. No node can be given it."""


GATEWAY_NAME = "gateway.loradeck"
"""The name in a certificate that makes its holder a gateway, which is told of every route. Only a person gives it."""


class Invitation(Strict):
    """A person asks for a join token of a node."""

    node: Name
    hosts: tuple[str, ...] = Field(
        (), max_length=20, description="names and addresses of its router; (): the node's name"
    )
    lifetime_s: int = Field(86_400, ge=60, le=30 * 86_400)
    gateway: bool = Field(False, description="it has no engine: it sends callers on to the nodes that serve them")


class JoinToken(Wire):
    """A join token. It ends with the SHA-256 of the authority's certificate, so that a node knows whom to tell it."""

    id: str
    token: str
    expires_ms: int


class JoinRequest(Strict):
    """A node that has a join token asks for a certificate."""

    node: Name
    csr: str = Field(max_length=8192, description="certificate request (PEM) that its key, of P-256, has signed")


class Joined(Wire):
    """A node's certificate: the answer to a join and to a renewal."""

    node: Name
    certificate: str = Field(description="PEM")
    authority: str = Field(description="certificates of the hub's authorities, PEM")
    from_ms: int
    until_ms: int


class AuthorityState(Wire):
    """How far the hub's authority is with its replacement, and which nodes do not know of it yet."""

    stage: str = Field(description="alone, trusted (the new one beside the old) or signs (the new one, beside the old)")
    roots: tuple[str, ...] = Field(description="SHA-256 of the authorities that are trusted, the one that signs first")
    behind: tuple[Name, ...] = Field(description="nodes that were not given these yet")


class Revoked(Wire):
    """What was revoked of a node: the ids of its tokens and keys."""

    node: Name
    ids: tuple[str, ...]
