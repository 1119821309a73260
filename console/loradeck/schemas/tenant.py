"""Tenants, their routes and their callers' keys, as the log leaves them."""

from __future__ import annotations

from pydantic import Field

from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.ids import Digest, Name, Strict, Wire
from loradeck.schemas.route import RouteConfig


class CallerKey(Wire):
    """A key that a tenant's own callers present to a router. Only its hash is kept."""

    id: str
    sha256: Digest


class TenantState(Wire):
    name: Name
    suspended: bool = False
    offboarded: bool = False
    routes: dict[Name, RouteConfig] = Field(default_factory=dict)
    keys: tuple[CallerKey, ...] = ()
    data: DataPolicy = DataPolicy()


class TenantCreate(Strict):
    name: Name


class TokenCreate(Strict):
    """`node` is required for an agent's token and forbidden for others."""

    name: Name
    role: str
    node: Name | None = None


class TokenRecord(Wire):
    id: str
    name: Name
    role: str
    node: Name | None = None
    sha256: Digest
    created_ms: int = 0
    created_by: str = ""
    revoked: bool = False
