"""An event about the fleet has no tenant, so there are no releases to name."""

from __future__ import annotations

from typing import Any

from loradeck.cli.shared.naming import called
from loradeck.schemas.ids import Role
from loradeck.schemas.log import FLEET, GENESIS, Event, EventKind


class NoTenants:
    """A hub without tenants: asking it for a tenant's releases is refused there, and is an error here."""

    async def releases(self, tenant: str) -> Any:
        raise AssertionError(f"the releases of {tenant!r} were asked for")


async def test_no_tenant_is_asked_about_for_an_event_of_the_fleet() -> None:
    event = Event(
        rev=1,
        id="e" * 32,
        txn="t" * 32,
        epoch=1,
        kind=EventKind.NODE_FORGET,
        tenant=FLEET,
        route=None,
        pointer=None,
        from_release=None,
        actor="ann",
        role=Role.OPERATOR,
        reason="its disk burned",
        incident=None,
        override=False,
        undoes=(),
        payload={"node": "n1"},
        at_ms=0,
        prev_hash=GENESIS,
        hash="a" * 64,
    )
    name = await called(NoTenants(), [event])  # type: ignore[arg-type]
    assert name(None) == "-"
    assert event.where == "node n1"
