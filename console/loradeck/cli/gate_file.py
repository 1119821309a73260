"""A route's gate as people write it: TOML, in which suites stand by name."""

from __future__ import annotations

from typing import Any

from loradeck.cli.exits import misused
from loradeck.cli.naming import owned_named
from loradeck.client.api import HubApi


async def with_digests(api: HubApi, tenant: str, gate: dict[str, Any]) -> dict[str, Any]:
    """A gate's settings with the digests of the tenant's suites instead of their names.

    Raises:
        CliError: a suite that the tenant does not have, or `also` that is no list of tables.
    """
    also = gate.get("also", [])
    if not isinstance(also, list) or not all(isinstance(part, dict) for part in also):
        raise misused("`also` is no list of tables", where="gate", fix="write [[also]], one for each further suite")
    known = await api.suites()

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        name = part.get("suite")
        return part | {"suite": owned_named("suite", name, tenant, known)} if isinstance(name, str) else part

    return resolved(gate) | ({"also": [resolved(part) for part in also]} if also else {})
