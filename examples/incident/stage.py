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


async def promote(api: HubApi, tenant: str, release: str, *, override: str = "") -> None:
    """Promote and wait until it is proven.

    Raises:
        NotReady: it was committed and is not proven in time.
    """
    row = await clear_the_way(api, tenant, release)
    request = promotion(row, release, override=override)
    result = await api.promote(tenant, ROUTE, request, wait="proven", timeout=60)
    if result.reached != "proven":
        raise NotReady(f"the promote of {tenant} got as far as {result.reached}, not to proven, within 60 s")


async def bring_to_v2(
    api: HubApi,
    tenant: str,
    releases: Mapping[str, Mapping[str, str]],
    start_callers: Callable[[], None],
    progress: Progress,
) -> None:
    """v1 everywhere; on `tenant` v2 live and soaked above v1, nothing held. From whatever an earlier run left."""
    own = releases[tenant]
    with progress.step("promoting v1 of each tenant through its gate"):
        for name, versions in releases.items():
            if (await api.row(name, ROUTE)).pointer.release is None:
                await promote(api, name, versions["v1"])
    # Nodes that have just been started load and prove what they serve; callers come once they may.
    for name in releases:
        await until(api, name, progress, f"{name} is proven on every replica", _unproven)
    # Real requests flow through both routers from here on, whatever is promoted.
    start_callers()
    row = await api.row(tenant, ROUTE)
    if row.live is not None and row.live.id == own["v3"]:
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
    """Wait until nothing is missing any more.

    Raises:
        NotReady: something still is after two and a half minutes.
    """
    with progress.step(what) as step:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            row = await api.row(tenant, ROUTE)
            lacks = missing(row)
            if lacks is None:
                return row
            step.update(lacks)
            if time.monotonic() > deadline:
                raise NotReady(f"{what}: still {lacks} after {PATIENCE_S:.0f} s")
            await asyncio.sleep(0.4)
