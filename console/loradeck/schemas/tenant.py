"""Tenants, their routes and their callers' keys, as the log's events leave them; and the tokens of people and
agents.
"""

from enum import StrEnum

from pydantic import Field

from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.ids import LARGEST_INT, Digest, Label, Name, Resource, Role, Strict, Wire, added, digest_of
from loradeck.schemas.route import RouteConfig


class CallerKey(Wire):
    """A key that a tenant's own callers present to a router. Only its hash is stored."""

    id: str
    sha256: Digest


class Quota(Strict):
    """What a tenant may have; deprecated versions and revoked weights do not count. None: no limit."""

    adapters: int | None = Field(None, ge=0, le=LARGEST_INT, description="adapter versions")
    bytes: int | None = Field(None, ge=0, le=LARGEST_INT, description="of their files at the hub")
    weights: int | None = added(
        None, "bytes of the whole weights that its jobs merge or train, on nodes", ge=0, le=LARGEST_INT
    )
    slots: int | None = added(None, "that its `always` routes keep, on all nodes", ge=0, le=LARGEST_INT)


NO_QUOTA = Quota()


class QuotaUse(Wire):
    """A tenant's quota, and what it has."""

    quota: Quota
    adapters: int
    bytes: int
    weights: int = 0
    slots: int = 0


class TenantState(Wire):
    """A tenant as the log's events leave it."""

    name: Name
    suspended: bool = False
    offboarded: bool = False
    routes: dict[Name, RouteConfig] = Field(default_factory=dict)
    keys: tuple[CallerKey, ...] = ()
    data: DataPolicy = DataPolicy()
    quota: Quota = added(NO_QUOTA)
    assigned: dict[Name, tuple[Name, ...]] = added(dict, "the nodes of each route that is placed in a pool")

    @property
    def keeps(self) -> DataPolicy:
        """The tenant's data policy, by which nothing of its callers is kept any more once it is offboarded."""
        none = {"ledger_days": 0, "feedback_days": 0, "input_days": 0, "sample_hours": 0}
        return self.data.model_copy(update=none) if self.offboarded else self.data


class TenantCreate(Strict):
    """Create a tenant."""

    name: Name


class TokenCreate(Strict):
    """Create a token for a person, a program or an agent. `node` is required for agents and forbidden for others."""

    name: Name = Field(description="no valid token may have it yet")
    role: str
    node: Name | None = None
    tenants: dict[Name, Role] | None = added(
        None, "its role at each of these tenants, of which `role` is the highest; None: `role` at all"
    )
    resources: tuple[Resource, ...] | None = added(None, "what it is for; None: everything")
    expires_ms: int | None = added(None, "hub time; None: it does not expire", ge=0, le=LARGEST_INT)
    labels: dict[Label, Label] | None = added(
        None, "what its node is placed by, whatever that says; None: what it says first", max_length=64
    )


class Credential(StrEnum):
    """Kinds of what a caller shows."""

    TOKEN = "token"
    JOIN = "join"  # a join token: good once, for a certificate
    KEY = "key"  # the key of a node that has joined, known by its public half


class TokenRecord(Wire):
    """A token as the hub stores it, by its hash; the token itself is shown once, when it is created."""

    id: str
    name: Name
    role: str
    node: Name | None = None
    sha256: Digest
    created_ms: int = 0
    created_by: str = ""
    revoked: bool = False
    tenants: dict[Name, Role] | None = Field(None, description="None: all tenants, as of earlier versions")
    resources: tuple[Resource, ...] | None = None
    expires_ms: int | None = None
    labels: dict[str, str] | None = None
    last_used_ms: int | None = Field(None, description="within a minute; None: never")
    kind: Credential = Credential.TOKEN
    hosts: tuple[str, ...] = Field((), description="of a join token: names and addresses for the node's certificate")
    roots: tuple[str, ...] = Field((), description="of a node's key: the authorities that the node was given last")

    @property
    def digest(self) -> Digest:
        """Digest of what it opens and to whom, which never changes: the audit trail binds it.

        Fields that have their defaults are left out, so that a field of a later version changes no digest.
        """
        changes = {"revoked", "last_used_ms", "roots"}
        return digest_of(self.model_dump(mode="json", exclude=changes, exclude_defaults=True))
