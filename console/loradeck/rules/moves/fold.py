"""The log folded: pointers and tenants as the events leave them."""

from __future__ import annotations

from collections.abc import Iterable

from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import GENESIS, Event, EventKind, PointerState
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.tenant import CallerKey, TenantState


class LogGap(ValueError):
    """An event does not follow what was folded so far. The ledger is unchanged."""


class Ledger:
    """State after `rev`. Apply events in order, one by one; a ledger is used from one thread."""

    def __init__(self) -> None:
        self.epoch = 0
        self.rev = 0
        self.hash = GENESIS
        self.pointers: dict[PointerKey, PointerState] = {}
        self.tenants: dict[str, TenantState] = {}

    @classmethod
    def of(
        cls, *, epoch: int, rev: int, hash: str, pointers: Iterable[PointerState], tenants: Iterable[TenantState]
    ) -> Ledger:
        """A ledger that goes on from a snapshot of the store."""
        ledger = cls()
        ledger.epoch, ledger.rev, ledger.hash = epoch, rev, hash
        ledger.pointers = {p.key: p for p in pointers}
        ledger.tenants = {t.name: t for t in tenants}
        return ledger

    def apply(self, event: Event) -> None:
        """Folds the next event in.

        Raises:
            LogGap: it is not the next rev, or not of this log.
            KeyError: it speaks of a tenant that was never created.
        """
        if event.rev != self.rev + 1:
            raise LogGap(f"rev {event.rev} does not follow rev {self.rev}")
        if event.prev_hash != self.hash:
            raise LogGap(f"rev {event.rev} is of another log: its predecessor's hash is not the one at rev {self.rev}")
        tenant = tenant_after(self.tenants.get(event.tenant), event)
        if tenant is not None:
            self.tenants[event.tenant] = tenant
        if event.pointer is not None:
            self.pointers[event.pointer.key] = event.pointer
        self.rev, self.hash, self.epoch = event.rev, event.hash, max(self.epoch, event.epoch)

    def extend(self, events: Iterable[Event]) -> None:
        """Applies events in order."""
        for event in events:
            self.apply(event)


def tenant_after(tenant: TenantState | None, event: Event) -> TenantState | None:
    """The tenant after an event; the same object where the event does not concern it.

    Raises:
        KeyError: the event changes a tenant that was never created.
    """
    kind = event.kind
    if kind is EventKind.TENANT_CREATE:
        return TenantState(name=event.tenant)
    if kind not in _TENANT_KINDS:
        return tenant
    if tenant is None:
        raise KeyError(event.tenant)
    update: dict[str, object]
    if kind is EventKind.TENANT_SUSPEND:
        update = {"suspended": True}
    elif kind is EventKind.TENANT_RESUME:
        update = {"suspended": False}
    elif kind is EventKind.TENANT_OFFBOARD:
        update = {"offboarded": True, "keys": ()}
    elif kind is EventKind.ROUTE:
        if event.route is None:
            raise ValueError(f"rev {event.rev} sets a route without naming it")
        config = RouteConfig.model_validate(event.payload["config"])
        update = {"routes": {**tenant.routes, event.route: config}}
    elif kind is EventKind.DATA_POLICY:
        update = {"data": DataPolicy.model_validate(event.payload["policy"])}
    elif "add" in event.payload:
        key = CallerKey.model_validate(event.payload["add"])
        update = {"keys": (*(k for k in tenant.keys if k.id != key.id), key)}
    else:
        update = {"keys": tuple(k for k in tenant.keys if k.id != event.payload["remove"])}
    return tenant.model_copy(update=update)


_TENANT_KINDS = frozenset(
    {
        EventKind.TENANT_SUSPEND,
        EventKind.TENANT_RESUME,
        EventKind.TENANT_OFFBOARD,
        EventKind.ROUTE,
        EventKind.KEY,
        EventKind.DATA_POLICY,
    }
)
