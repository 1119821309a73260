"""Clients that move routes of a fleet whose hubs fail, and keep a list of their own of what was acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from tests.fleets.processes.fleet import ROUTE, TENANT, Material, lay
from tests.fleets.processes.several_hubs import PASSING, FleetOfHubs

from incident.fleet import wait_for
from incident.incident import Cast
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.errors import ApiError, HubUnreachable, OutcomeUnknown
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import MoveResult, UndoRequest

ROUTES = ("production", "r1", "r2", "r3")


@dataclass
class Made:
    """An acknowledged move. From `flipped_ns` to `until_ns` nobody may be answered by `left`; 0: not flipped."""

    event: str
    route: str
    left: str
    began: float
    done: float
    flipped_ns: int
    until_ns: int = 0


class Mover:
    """Moves one route back and forth between two releases, and keeps a list of what was acknowledged.

    A move that is refused because no hub is active now is asked for again; any other refusal is an error.
    """

    def __init__(self, api: HubApi, route: str, cast: Cast) -> None:
        self.made: list[Made] = []
        self.refused: list[str] = []
        self.ending = False
        self._api = api
        self._route = route
        self._live = cast.releases["v2"]

    async def run(self) -> None:
        while not self.ending:
            began = time.monotonic()
            try:
                left, result = await self._move()
            except (ApiError, HubUnreachable, OutcomeUnknown) as error:
                if not isinstance(error, HubUnreachable) and error.code not in PASSING | {"moved"}:
                    raise
                self.refused.append(error.code)
                await asyncio.sleep(0.02)
                continue
            flipped = time.monotonic_ns() if result.reached in ("flipped", "listed", "proven") else 0
            done = time.monotonic()
            self.made += [Made(event.id, self._route, left, began, done, flipped) for event in result.events[:1]]

    async def _move(self) -> tuple[str, MoveResult]:
        """Makes the next move of the route, and returns the release that it left with the answer."""
        row = await self._api.row(TENANT, self._route)
        left, last = row.pointer.release or "", row.pointer.last_move
        how: Any = {"wait": "flipped", "timeout": 5}
        if self.made and self.made[-1].until_ns == 0:
            self.made[-1].until_ns = time.monotonic_ns()
        if left == self._live:
            back = rollback_request(row.preview, key=new_key(), reason="a thousand moves")
            return left, await self._api.send(TENANT, self._route, back, **how)
        undo = UndoRequest(event=last, confirmed=True, idempotency_key=new_key())
        return left, await self._api.send(TENANT, self._route, undo, **how)


def lay_routes(fleet: FleetOfHubs, material: Material) -> tuple[Cast, str]:
    """A tenant with four routes, each with v2 live and v1 beneath."""
    cast, key = lay(fleet, material)
    settings = fleet.root / "route.toml"
    settings.write_text(ROUTE.format(replicas=len(fleet.nodes)))
    for route in ROUTES[1:]:
        fleet.cli("route", "set", TENANT, route, "--file", str(settings), "--yes")
        for label in ("v1", "v2"):
            words = ("--yes", "--wait", "proven", "--timeout", "180")
            fleet.cli("promote", TENANT, route, cast.releases[label], *words)
    return cast, key


@dataclass(frozen=True)
class Movers:
    """The clients that move, and their tasks."""

    all: Sequence[Mover]
    tasks: Sequence[asyncio.Task[None]]

    @property
    def made(self) -> list[Made]:
        """All acknowledged moves."""
        return [made for mover in self.all for made in mover.made]

    async def reach(self, count: int) -> None:
        """Waits until so many moves have been acknowledged in all."""
        await self._until(lambda: len(self.made) >= count, 300)

    async def again(self, since: float) -> float:
        """Seconds from `since` to the first acknowledgement of a move that was asked for after it."""
        await self._until(lambda: any(made.began > since for made in self.made), 60)
        return min(made.done for made in self.made if made.began > since) - since

    async def _until(self, done: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not done():
            for task in self.tasks:
                if task.done():
                    task.result()
            refused = [mover.refused[-3:] for mover in self.all]
            assert time.monotonic() < deadline, f"{len(self.made)} moves; the last refusals were {refused}"
            await asyncio.sleep(0.005)


@asynccontextmanager
async def moving(fleet: FleetOfHubs, cast: Cast) -> AsyncIterator[Movers]:
    """A client for each route, which moves it until the block ends."""
    token = fleet.root / "mover.token"
    words = ("--role", "releaser", "--name", "mover", "--out", str(token))
    await asyncio.to_thread(fleet.cli, "token", "create", *words)
    bearer = {"Authorization": f"Bearer {token.read_text().strip()}"}

    def known() -> bool:
        return all(httpx.get(f"{url}/v1/lease", headers=bearer).status_code != 401 for url in fleet.urls)

    # A hub that stands by reads new tokens every two seconds.
    await asyncio.to_thread(wait_for, "every hub knows the movers' token", known, 10)
    context = Context(name="tests", url=fleet.urls[0], others=fleet.urls[1:], token_file=token)
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(HubApi.to(context)) for _ in ROUTES]
        movers = [Mover(api, route, cast) for api, route in zip(apis, ROUTES, strict=True)]
        tasks = [asyncio.create_task(mover.run()) for mover in movers]
        try:
            yield Movers(movers, tasks)
            for mover in movers:
                mover.ending = True
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
