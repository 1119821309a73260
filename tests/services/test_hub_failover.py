"""A fleet under traffic whose active hub is killed, stopped and ended in the middle of moves: another one takes over.

By the own lists of movers and callers no acknowledged move is lost, and nobody is answered by a release that was left.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest
from tests.fakes.postgres_server import servers
from tests.faults.record import Found, seed
from tests.faults.test_kill_loop import Moved, _listens, _move_under, _settled
from tests.fleets.processes.fleet import TENANT, Material, lay
from tests.fleets.processes.several_hubs import FleetOfHubs, fleet_of_hubs
from tests.fleets.waiting import until

from incident.traffic import Callers
from loradeck.client.api import HubApi
from loradeck.client.config import Context

ROUNDS = 6
STOPPED_S = 9.0


@pytest.fixture
def fleet(material: Material) -> Iterator[FleetOfHubs]:
    with servers() as (server,):
        server.start()
        with fleet_of_hubs(material, [server]) as made:
            yield made


def fail(fleet: FleetOfHubs, how: str) -> None:
    """Makes the active hub fail. It comes back as one that stands by: at once, or when it was stopped long enough."""
    if how == "stopped":
        fleet.fail("hung")
        threading.Timer(STOPPED_S, fleet.mend, ("hung",)).start()
    else:
        fleet.fail(how)
        fleet.mend(how)


@pytest.mark.timeout(600)
async def test_no_failover_loses_an_acknowledged_move_or_lets_a_left_release_answer(
    fleet: FleetOfHubs, material: Material
) -> None:
    chance = random.Random(seed())
    cast, key = lay(fleet, material)
    token = fleet.root / "mover.token"
    fleet.cli("token", "create", "--role", "releaser", "--name", "mover", "--out", str(token))
    moved: list[Moved] = []
    acknowledged: set[str] = set()
    context = Context(name="tests", url=fleet.urls[0], others=fleet.urls[1:], token_file=token)
    async with (
        HubApi.to(context) as api,
        Callers({node.name: node.url for node in fleet.nodes}, {TENANT: key}, max_tokens=12) as callers,
    ):
        callers.start({TENANT: cast.prompts}, every_s=0.02)
        for number in range(ROUNDS):
            how = ("killed", "stopped", "ended")[number % 3]
            began = time.monotonic()
            left, to, result, flipped_ns = await _move_under(
                api, cast, partial(fail, fleet, how), chance.uniform(0, 0.06)
            )
            took = time.monotonic() - began
            row = await _settled(api, fleet, f"round {number}: the active hub was {how}")
            print(
                f"{how}: the move was answered after {took:.2f} s, proven everywhere after "
                f"{time.monotonic() - began:.2f} s"
            )
            if result is not None:
                acknowledged.update(event.id for event in result.events)
                assert row.pointer.release == to, f"round {number}: an acknowledged move is gone"
                if result.reached not in (None, "committed"):
                    moved.append(Moved(left=left, to=to, flipped_ns=flipped_ns, until_ns=time.monotonic_ns()))
            for node in fleet.nodes:
                await _listens(callers, node, cast)
            if how == "stopped":  # its timer wakes it, and then it learns that it has been succeeded
                await asyncio.sleep(max(0.0, began + STOPPED_S + 2 - time.monotonic()))
                await until(
                    lambda number=fleet.active: fleet.is_active(number) is False, "the hub that was stopped stands by"
                )
        await callers.stop()
        late = [
            (move, answer)
            for move in moved
            for answer in callers.answers
            if move.flipped_ns < answer.sent_ns < move.until_ns and answer.by == move.left
        ]
        kept = {event.id for event in await api.events(tenant=TENANT, limit=1000)}
        print(
            f"{len(acknowledged)} moves acknowledged, {len(acknowledged - kept)} lost; "
            f"{len(callers.answers)} answers, {len(late)} by a left release"
        )
        lost = len(acknowledged - kept)
        Found(moves=len(acknowledged), lost=lost, answers=len(callers.answers), late=len(late)).keep()
        assert late == []
        assert acknowledged <= kept
        assert len(acknowledged) >= ROUNDS // 2
        assert (await api.verify_audit()).ok
        assert sum(answer.ok for answer in callers.answers) > 50
