"""Up to the bad release: v1 and v2 go live through their gate, v3 past it, as it was at three in the morning."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from incident.fleet import NotReady
from incident.incident import ROUTE, clear_the_way, promotion
from incident.progress import Progress
from loradeck.client.api import HubApi
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.request import rollback_request
from loradeck.schemas.state import PreviewAction, TenantRow

PATIENCE_S = 150.0
PROMOTE_S = 120.0


async def promote(api: HubApi, tenant: str, release: str, *, override: str = "") -> None:
    """Promotes a release and waits until it is proven.

    Raises:
        NotReady: it was committed and is not proven in time.
    """
    row = await clear_the_way(api, tenant, release)
    request = promotion(row, release, override=override)
    result = await api.promote(tenant, ROUTE, request, wait="proven", timeout=PROMOTE_S)
    if result.reached != "proven":
        raise NotReady(f"the promote of {tenant} reached {result.reached}, not proven, within {PROMOTE_S:.0f} s")


async def bring_to_v2(
    api: HubApi,
    tenant: str,
    releases: Mapping[str, Mapping[str, str]],
    start_callers: Callable[[], None],
    progress: Progress,
) -> None:
    """Brings v1 live everywhere and, on `tenant`, v2 above it, soaked and not held; from whatever an earlier run left.

    Raises:
        NotReady: a promote was not proven, or a wait took too long.
    """
    own = releases[tenant]
    with progress.step("promoting v1 of each tenant through its gate"):
        async with asyncio.TaskGroup() as tasks:
            for name, versions in releases.items():
                if (await api.row(name, ROUTE)).pointer.release is None:
                    tasks.create_task(promote(api, name, versions["v1"]))
    # Nodes that have just been started load and prove what they serve; callers come once they may.
    for name in releases:
        await until(api, name, progress, f"{name} is proven on every replica", _unproven)
    # Real requests flow through both routers from here on, whatever is promoted.
    start_callers()
    row = await api.row(tenant, ROUTE)
    if row.live is not None and row.live.id == own.get("v3"):
        with progress.step("putting an earlier run's v3 back"):
            await _back(api, tenant, row)
    row = await api.row(tenant, ROUTE)
    if row.live is None or row.live.id != own["v2"]:
        await until(api, tenant, progress, "v1 serves its soak", not_soaked)
        with progress.step(f"promoting {tenant} v2 through its gate"):
            await promote(api, tenant, own["v2"])
    await until(api, tenant, progress, "v2 serves its soak", not_soaked)


async def _back(api: HubApi, tenant: str, row: TenantRow) -> None:
    preview = row.preview
    if preview.action is not PreviewAction.ROLLBACK or preview.target is None:
        raise NotReady(f"an earlier run left v3 live with no way back: {preview.refused}; start over with FRESH=1")
    request = rollback_request(preview, key=new_key(), reason="left by an earlier run")
    await api.rollback(tenant, ROUTE, request, wait="proven", timeout=60)


def not_soaked(row: TenantRow) -> str | None:
    """What the live release still lacks of its soak; None once it has served it."""
    seconds, requests = row.soak
    health = row.cause.live
    served = (time.time() * 1000 - (row.pointer.moved_ms or 0)) / 1000
    if health.requests >= requests and served >= seconds + 1:
        return None
    return f"{health.requests}/{requests} requests, {min(served, seconds):.0f}/{seconds:.0f} s"


def _unproven(row: TenantRow) -> str | None:
    return None if 0 < row.placed == row.proven else f"proven {row.proven}/{row.placed}"


async def until(
    api: HubApi, tenant: str, progress: Progress, what: str, missing: Callable[[TenantRow], str | None]
) -> TenantRow:
    """Waits until nothing is missing any more, and returns the row.

    Raises:
        NotReady: something still is after two and a half minutes.
    """
    row = await at_most_until(api, tenant, progress, what, missing)
    lacks = missing(row)
    if lacks is not None:
        raise NotReady(f"{what}: still {lacks} after {PATIENCE_S:.0f} s")
    return row


async def at_most_until(
    api: HubApi, tenant: str, progress: Progress, what: str, missing: Callable[[TenantRow], str | None]
) -> TenantRow:
    """Waits until nothing is missing any more, or for two and a half minutes, and returns the row then."""
    with progress.step(what) as step:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            row = await api.row(tenant, ROUTE)
            lacks = missing(row)
            if lacks is None or time.monotonic() > deadline:
                return row
            step.update(lacks)
            await asyncio.sleep(0.25)
