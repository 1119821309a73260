"""Up to the bad release: v1 and v2 go live through their gate, v3 past it, as it was at three in the morning."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from incident.fleet import NotReady
from incident.groundwork import TENANT, VERSIONS, Work
from incident.incident import ROUTE, clear_the_way, promotion
from incident.progress import Board, Progress
from incident.traffic import Callers, Prompt
from loradeck.client.api import HubApi
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.state import PreviewAction, TenantRow

PATIENCE_S = 150.0
PROMOTE_S = 120.0

SOAK_TURNS = 6
"""Requests to each router by which a release serves its soak at once."""


@dataclass(frozen=True)
class Stage:
    """Brings v1 live everywhere and TENANT's v2, each version as soon as it may be."""

    api: HubApi
    work: Work
    callers: Callers
    board: Board

    async def run(self) -> None:
        """Does it, from whatever an earlier run left: at the end v2 is live, soaked and not held.

        Raises:
            NotReady: a promote was not proven, or a wait took too long.
        """
        async with asyncio.TaskGroup() as tasks:
            for tenant in VERSIONS:
                tasks.create_task(self._begin(tenant))

    async def _begin(self, tenant: str) -> None:
        first = await self.work.promotable(tenant, "v1")
        if (await self.api.row(tenant, ROUTE)).pointer.release is None:
            await self._promote(tenant, first, "v1 goes live")
        # Nodes that have just been started load and prove what they serve; callers come once they may.
        await self._until(tenant, "is proven", _unproven)
        if tenant == TENANT:
            await self._go_on(some((await self.work.ground()).prompts[tenant]))

    async def _go_on(self, prompts: Sequence[Prompt]) -> None:
        tenant = TENANT
        row = await self.api.row(tenant, ROUTE)
        if row.live is not None and row.live.id == (await self.work.released(tenant)).get("v3"):
            await _back(self.api, tenant, row)
        second = await self.work.promotable(tenant, "v2")
        row = await self.api.row(tenant, ROUTE)
        if row.live is None or row.live.id != second:
            await self._soak(tenant, "v1 serves its soak", prompts)
            await self._promote(tenant, second, "v2 goes live")
        await self._soak(tenant, "v2 serves its soak", prompts)

    async def _promote(self, tenant: str, release: str, what: str) -> None:
        self.board.show(f"{tenant} {what}")
        await promote(self.api, tenant, release)
        self.board.drop(f"{tenant} {what}")

    async def _soak(self, tenant: str, what: str, prompts: Sequence[Prompt]) -> None:
        asked = self.callers.burst(tenant, prompts, SOAK_TURNS)
        await self._until(tenant, what, not_soaked)
        await asyncio.gather(*asked)

    async def _until(self, tenant: str, what: str, missing: Callable[[TenantRow], str | None]) -> None:
        label = f"{tenant} {what}"
        lacks = missing(await waited(self.api, tenant, missing, lambda text: self.board.show(label, text)))
        self.board.drop(label)
        if lacks is not None:
            raise NotReady(f"{label}: still {lacks} after {PATIENCE_S:.0f} s")


def some(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """Every eighth prompt: so few that engines answer most requests from the prefixes they keep."""
    return prompts[::8]


async def promote(api: HubApi, tenant: str, release: str, *, override: str = "") -> None:
    """Promotes a release and waits until it is proven.

    Raises:
        NotReady: it was committed and is not proven in time.
    """
    row = await clear_the_way(api, tenant, release)
    request = promotion(row, release, override=override)
    result = await api.send(tenant, ROUTE, request, wait="proven", timeout=PROMOTE_S)
    if result.reached != "proven":
        raise NotReady(f"the promote of {tenant} reached {result.reached}, not proven, within {PROMOTE_S:.0f} s")


async def _back(api: HubApi, tenant: str, row: TenantRow) -> None:
    """Puts an earlier run's v3 back."""
    preview = row.preview
    if preview.action is not PreviewAction.ROLLBACK or preview.target is None:
        raise NotReady(f"an earlier run left v3 live with no way back: {preview.refused}; start over with FRESH=1")
    request = rollback_request(preview, key=new_key(), reason="left by an earlier run")
    await api.send(tenant, ROUTE, request, wait="proven", timeout=60)


def not_soaked(row: TenantRow) -> str | None:
    """What the live release still lacks of its soak; None once it has served it."""
    seconds, requests = row.soak
    health = row.cause.live
    served = (time.time() * 1000 - (row.pointer.moved_ms or 0)) / 1000
    if health.finished >= requests and served >= seconds + 1:
        return None
    return f"{health.finished}/{requests} requests, {min(served, seconds):.0f}/{seconds:.0f} s"


def _unproven(row: TenantRow) -> str | None:
    return None if 0 < row.placed == row.proven else f"{row.proven}/{row.placed}"


async def waited(
    api: HubApi, tenant: str, missing: Callable[[TenantRow], str | None], show: Callable[[str], None]
) -> TenantRow:
    """Waits until nothing is missing any more, or for two and a half minutes, and returns the row then."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        row = await api.row(tenant, ROUTE)
        lacks = missing(row)
        if lacks is None or time.monotonic() > deadline:
            return row
        show(lacks)
        await asyncio.sleep(0.25)


async def at_most_until(
    api: HubApi, tenant: str, progress: Progress, what: str, missing: Callable[[TenantRow], str | None]
) -> TenantRow:
    """`waited` as a step of its own."""
    with progress.step(what) as step:
        return await waited(api, tenant, missing, step.update)
