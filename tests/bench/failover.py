"""Two hubs over a primary and two synchronous standbys: how long after a failure R is acknowledged again.

Four clients move a route each all the time. The active hub is killed, hangs (SIGSTOP), or is cut off, so that nothing
that is sent to it or by it arrives, and nobody is told. It comes back before the next failure. Measured from the
failure to the acknowledgement of a move that was asked for after it. Everything is on one machine.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench.rows import Row
from tests.fakes.postgres_server import replicated
from tests.fleets.processes.fleet import make_material
from tests.fleets.processes.movers import lay_routes, moving
from tests.fleets.processes.several_hubs import FleetOfHubs, fleet_of_hubs

from incident.incident import Cast
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.rules.moves.lease import TTL_S

ROUNDS = 5

LEASES = {"killed": 1.4, "hung": 4.2, "cut off": 3.4}
"""How the active hub fails -> the most leases until the next acknowledged R: how long a lease is held decides when
another hub may take it.
"""


def measure(*, rounds: int = ROUNDS) -> list[Row]:
    """About six minutes on two free cores."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder, replicated() as servers:
        material = make_material(Path(folder))
        with fleet_of_hubs(material, servers, wired=True) as fleet:
            cast, _ = lay_routes(fleet, material)
            took, acknowledged, lost = asyncio.run(_fail_in_turn(fleet, cast, rounds))
    rows: list[Row] = []
    for how, leases in LEASES.items():
        worst, n = max(took[how]), len(took[how])
        rows += [
            Row(f"the active hub is {how}: R again, worst", worst, "s", n),
            Row(
                f"the active hub is {how}: R again, worst, against the lease",
                worst / TTL_S,
                "x",
                n,
                leases,
                how=f"held for {TTL_S:g} s after a renewal",
                reference="setting",
            ),
        ]
    rows.append(Row("the primary is killed and a standby promoted: R again", *_of(took["primary killed"])))
    rows.append(Row("acknowledged moves that are gone after these", lost, "moves", acknowledged, 0, unwaivable=True))
    return rows


def _of(values: list[float]) -> tuple[float, str, int]:
    return max(values), "s", len(values)


async def _fail_in_turn(fleet: FleetOfHubs, cast: Cast, rounds: int) -> tuple[dict[str, list[float]], int, int]:
    """Seconds of each failure; how many moves were acknowledged, and how many of them are not in the log."""
    took: dict[str, list[float]] = defaultdict(list)
    async with moving(fleet, cast) as movers:
        for how in [*[*LEASES] * rounds, "primary killed"]:
            await movers.reach(len(movers.made) + 40)
            began = await asyncio.to_thread(fleet.fail, how)
            took[how].append(await movers.again(began))
            await asyncio.to_thread(fleet.mend, how)
        await movers.reach(len(movers.made) + 40)
    acknowledged = {made.event for made in movers.made}
    async with HubApi.to(Context(name="bench", socket=fleet.active_socket())) as api:
        kept, before = set[str](), None
        while page := await api.events(before=before, limit=1000):
            kept.update(event.id for event in page)
            before = page[-1].rev
    return took, len(acknowledged), len(acknowledged - kept)
