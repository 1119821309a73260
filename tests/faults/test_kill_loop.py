"""kill -9 of hub, agents, routers and engines, at random moments of promotes and rollbacks, under traffic.

`LORADECK_FAULT_ROUNDS` sets the rounds: 4 in `make test`, one for each kind of process; 16 in `make test-services`, 10
in each round of `make faults`. The seed is printed, and `LORADECK_FAULT_SEED` sets it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.faults.record import Found, seed
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay, told
from tests.fleets.waiting import PATIENCE_S

from incident.fleet import Fleet, Node, wait_for
from incident.incident import ROUTE, Cast, clear_the_way, promotion
from incident.traffic import Callers
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.errors import ClientError, OutcomeUnknown
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import MoveResult
from loradeck.schemas.state import PreviewAction, TenantRow
from loradeck_agent.host.state_folder import StateFolder, holder_of

pytestmark = pytest.mark.drawn(seconds=60)

ROUNDS = int(os.environ.get("LORADECK_FAULT_ROUNDS", "4"))
SEED = seed()


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A move that was acknowledged: requests sent in this span must not be answered by `left`."""

    left: str
    to: str
    flipped_ns: int
    until_ns: int


class Faults:
    """The fleet's processes, and how each is killed and comes back."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def victims(self) -> list[tuple[str, Callable[[], None]]]:
        found: list[tuple[str, Callable[[], None]]] = [("hub", self._hub)]
        for node in self._fleet.nodes:
            found.append((f"agent of {node.name}", lambda node=node: self._agent(node)))
            found.append((f"router of {node.name}", lambda node=node: self._child(StateFolder(node.state).router_lock)))
            found.append(
                (f"engine of {node.name}", lambda node=node: self._child(StateFolder(node.state).engine_lock("e0")))
            )
        return found

    def _hub(self) -> None:
        self._fleet.kill_hub()
        self._fleet.start_hub()

    def _agent(self, node: Node) -> None:
        self._fleet.kill_agent(node)
        self._fleet.start_agent(node)

    def _child(self, lock: Path) -> None:
        """The agent brings routers and engines back by itself."""
        pid = wait_for(f"holder of {lock}", lambda: holder_of(lock), PATIENCE_S)
        os.kill(pid, signal.SIGKILL)
        wait_for(f"another holder of {lock}", lambda: holder_of(lock) not in (None, pid), PATIENCE_S)


@pytest.mark.timeout(120 + 30 * ROUNDS)
async def test_no_kill_loses_an_acknowledged_move_or_lets_the_left_release_answer(material: Material) -> None:
    print(f"LORADECK_FAULT_SEED={SEED}")
    chance = random.Random(SEED)
    with fleet_at(material.base) as fleet:
        cast, key = lay(fleet, material)
        faults = Faults(fleet)
        moved: list[Moved] = []
        acknowledged: set[str] = set()
        async with (
            HubApi.to(Context(name="tests", socket=fleet.socket)) as api,
            Callers({node.name: node.url for node in fleet.nodes}, {TENANT: key}, max_tokens=12) as callers,
        ):
            callers.start({TENANT: cast.prompts}, every_s=0.02)
            for number in range(ROUNDS):
                name, kill = chance.choice(faults.victims()) if number >= 4 else faults.victims()[(0, 1, 2, 3)[number]]
                pause = chance.uniform(0, 0.06)
                left, to, result, flipped_ns = await _move_under(api, cast, lambda kill=kill: kill(), pause)
                row = await _settled(api, fleet, f"round {number}: {name} killed after {pause * 1000:.0f} ms")
                if result is not None:
                    acknowledged.update(event.id for event in result.events)
                    assert row.pointer.release == to, f"round {number}: {name}: an acknowledged move is gone"
                    if result.reached not in (None, "committed"):
                        moved.append(Moved(left=left, to=to, flipped_ns=flipped_ns, until_ns=time.monotonic_ns()))
                for node in fleet.nodes:
                    await _listens(callers, node, cast)
                    answers = await asyncio.gather(*(callers.ask(node.name, TENANT, p) for p in cast.prompts[:4]))
                    assert [a.by for a in answers] == [row.pointer.release] * 4, f"round {number}: {name}: {answers}"
            await callers.stop()
            late = [
                (move, answer)
                for move in moved
                for answer in callers.answers
                if move.flipped_ns < answer.sent_ns < move.until_ns and answer.by == move.left
            ]
            kept = {event.id for event in await api.events(tenant=TENANT, limit=1000)}
            lost = len(acknowledged - kept)
            Found(moves=len(acknowledged), lost=lost, answers=len(callers.answers), late=len(late)).keep()
            assert late == []
            assert acknowledged <= kept
            assert len(acknowledged) >= ROUNDS // 2, "most moves should have been acknowledged"
            assert (await api.verify_audit()).ok
            assert sum(answer.ok for answer in callers.answers) > 50


async def _move_under(
    api: HubApi, cast: Cast, kill: Callable[[], None], pause: float
) -> tuple[str, str, MoveResult | None, int]:
    """Start the next move, kill after a pause, and wait for what the caller is told: (left, to, result, when)."""
    row = await api.row(TENANT, ROUTE)
    left = row.pointer.release or ""
    if left == cast.releases["v2"]:
        to = cast.releases["v3"]
        request = promotion(await clear_the_way(api, TENANT, to), to)
        move = asyncio.create_task(api.send(TENANT, ROUTE, request, wait="flipped", timeout=PATIENCE_S))
    else:
        preview = row.preview
        assert preview.action is PreviewAction.ROLLBACK, preview
        assert preview.target is not None
        to = preview.target.id
        back = rollback_request(preview, key=new_key(), reason="fault loop")
        move = asyncio.create_task(api.send(TENANT, ROUTE, back, wait="flipped", timeout=PATIENCE_S))
    await asyncio.sleep(pause)
    await asyncio.to_thread(kill)
    try:
        result = await move
    except OutcomeUnknown as error:
        result = await _resolved(api, error.key or "")
    except ClientError as error:
        # Refused: a prepare that its hub or its engine did not survive. Nothing was moved.
        print(f"not moved: {error.title}")
        result = None
    return left, to, result if result is not None and result.events else None, time.monotonic_ns()


async def _resolved(api: HubApi, key: str) -> MoveResult | None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await api.move(key)
        except ClientError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def _listens(callers: Callers, node: Node, cast: Cast) -> None:
    """A router that was killed holds its lock again a moment before it takes connections."""
    deadline = time.monotonic() + PATIENCE_S
    while (await callers.ask(node.name, TENANT, cast.prompts[0])).status == 0:
        assert time.monotonic() < deadline, f"{node.name} takes no connections"
        await asyncio.sleep(0.05)


async def _settled(api: HubApi, fleet: Fleet, what: str) -> TenantRow:
    """Wait until every replica is linked and proven on the current generation, with nothing pending."""
    deadline = time.monotonic() + PATIENCE_S
    row: TenantRow | None = None
    while time.monotonic() < deadline:
        try:
            row = await api.row(TENANT, ROUTE)
        except ClientError:
            await asyncio.sleep(0.1)
            continue
        linked = len(row.replicas) == len(fleet.nodes) and all(replica.linked for replica in row.replicas)
        if linked and row.proven == row.placed == len(fleet.nodes) and row.settled and row.preview.prepare is None:
            return row
        await asyncio.sleep(0.1)
    raise AssertionError(f"{what}: never proven again: {row}\n{told(fleet)}")
