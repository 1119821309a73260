"""A fleet of two hubs over a primary and two standbys, whose parts fail, and clients that go on moving routes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.fakes.postgres_server import PostgresServer, fail_over
from tests.faults.wire import Wire
from tests.fleets.processes.fleet import ROUTE, TENANT, Material, lay
from tests.services.test_hub_failover import FleetOfHubs
from tests.services.test_postgres_hubs import PASSING

from incident.fleet import _over, wait_for
from incident.incident import Cast
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.errors import ApiError, HubUnreachable, OutcomeUnknown
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import MoveResult, UndoRequest

ROUTES = ("production", "r1", "r2", "r3")

BUDGETS = {"killed": 5.0, "hung": 15.0, "cut off": 12.0, "primary killed": 15.0}
"""What fails -> seconds to the next acknowledged R (DESIGN 10.8).

The primary's, with the promotion of a standby, which is another tool's work, is that of a hub that hangs.
"""


@dataclass
class ReplicatedFleet(FleetOfHubs):
    """Two hubs over a primary and two standbys. All that a hub gets and sends goes over wires that can swallow it."""

    servers: Sequence[PostgresServer] = ()
    fronts: Sequence[Wire] = ()
    backs: Sequence[Sequence[Wire]] = ()

    @property
    def urls(self) -> tuple[str, str]:
        first, second = (f"http://127.0.0.1:{wire.port}" for wire in self.fronts)
        return first, second

    def database_of(self, number: int) -> str:
        ports = [str(wire.port) for wire in self.backs[number]]
        hosts = ",".join("127.0.0.1" for _ in ports)
        return f"postgresql://postgres@/postgres?host={hosts}&port={','.join(ports)}"

    def is_active(self, number: int) -> bool | None:
        """Whether a hub says that it is active; None: it does not answer."""
        with contextlib.suppress(httpx.HTTPError), _over(self.folder(number) / "hub.sock") as client:
            answer = client.get("http://hub/v1/lease", timeout=1.0)
            return bool(answer.json()["active"]) if answer.is_success else None
        return None

    def active_socket(self) -> Path:
        """The own socket of the active hub."""
        (number,) = [number for number in (0, 1) if self.is_active(number)]
        return self.folder(number) / "hub.sock"

    def fail(self, how: str) -> float:
        """Makes the active hub fail, or the primary, whose place a standby takes. Returns when, monotonic seconds."""
        (self.active,) = [number for number in (0, 1) if self.is_active(number)]
        if how == "killed":
            self.hubs[self.active].kill()
            self.hubs[self.active].wait()
        elif how == "hung":
            self.hubs[self.active].send_signal(signal.SIGSTOP)
        elif how == "cut off":
            for wire in self._wires():
                wire.swallow()
        else:
            self.servers[0].kill()
        at = time.monotonic()
        if how == "primary killed":
            fail_over(list(self.servers))
        return at

    def mend(self, how: str) -> None:
        """Has the hub back that failed, as one that stands by."""
        number = self.active
        if how == "primary killed":
            return
        if how == "killed":
            (self.folder(number) / "hub.sock").unlink(missing_ok=True)
            self.start_one(number)
        elif how == "hung":
            self.hubs[number].send_signal(signal.SIGCONT)
        else:
            for wire in self._wires():
                wire.heal()
        wait_for(f"the hub that was {how} stands by", lambda: self.is_active(number) is False, 60)

    def _wires(self) -> list[Wire]:
        return [self.fronts[self.active], *self.backs[self.active]]


@contextmanager
def replicated(material: Material, servers: Sequence[PostgresServer]) -> Iterator[ReplicatedFleet]:
    root = Path(tempfile.mkdtemp(prefix="ld"))
    fleet = ReplicatedFleet(root=root, base=material.base, temporary=True, joins=False, servers=servers)
    try:
        with ExitStack() as stack:
            fleet.fronts = [stack.enter_context(Wire(port)) for port in fleet.ports]
            fleet.backs = [[stack.enter_context(Wire(server.socket)) for server in servers] for _ in fleet.ports]
            with fleet.running():
                yield fleet
    finally:
        shutil.rmtree(root, ignore_errors=True)


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


def lay_routes(fleet: ReplicatedFleet, material: Material) -> tuple[Cast, str]:
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
async def moving(fleet: ReplicatedFleet, cast: Cast) -> AsyncIterator[Movers]:
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
