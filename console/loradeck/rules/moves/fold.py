"""The fold of the log: the state of pointers and tenants after a number of events."""

from __future__ import annotations

from collections.abc import Iterable

from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import GENESIS, Event, EventKind, PointerState
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.tenant import CallerKey, TenantState


class LogGap(ValueError):
    """An event does not follow the events folded so far. The fold is unchanged."""


class FoldedLog:
    """Pointers and tenants as the log's events up to `rev` leave them.

    Apply events in order, one by one, from one thread.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.rev = 0
        self.hash = GENESIS
        self.pointers: dict[PointerKey, PointerState] = {}
        self.tenants: dict[str, TenantState] = {}

    @classmethod
    def of(
        cls, *, epoch: int, rev: int, hash: str, pointers: Iterable[PointerState], tenants: Iterable[TenantState]
    ) -> FoldedLog:
        """Resumes from a snapshot of the store."""
        folded = cls()
        folded.epoch, folded.rev, folded.hash = epoch, rev, hash
        folded.pointers = {p.key: p for p in pointers}
        folded.tenants = {t.name: t for t in tenants}
        return folded

    def apply(self, event: Event) -> None:
        """Folds the next event in.

        Raises:
            LogGap: it is not the next rev, or belongs to another log.
            KeyError: it changes a tenant that was never created.
        """
        if event.rev != self.rev + 1:
            raise LogGap(f"rev {event.rev} does not follow rev {self.rev}")
        if event.prev_hash != self.hash:
            raise LogGap(
                f"rev {event.rev} belongs to another log: its previous hash differs from that of rev {self.rev}"
            )
        tenant = tenant_after(self.tenants.get(event.tenant), event)
        if tenant is not None:
            self.tenants[event.tenant] = tenant
        if event.pointer is not None:
            self.pointers[event.pointer.key] = event.pointer
        self.rev, self.hash, self.epoch = event.rev, event.hash, max(self.epoch, event.epoch)

    def extend(self, events: Iterable[Event]) -> None:
        """Applies events in order; raises as `apply` does."""
        for event in events:
            self.apply(event)


def tenant_after(tenant: TenantState | None, event: Event) -> TenantState | None:
    """The tenant's state after an event; the identical object if the event does not concern it.

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
