"""Asks another release again what callers have asked, behind all of them, and throws its answers away.

The other one is the release beneath the live one, or a candidate that shadows it; beside a shadow the live release is
asked twice as well. What they make of it is counted in pairs (`pairs`), and in no other count, trace or limit.
"""

import asyncio
import random
from dataclasses import dataclass, field, replace

import aiohttp

from loradeck.rules.quality.detection import HORIZON_S
from loradeck.rules.quality.sampling import ASKED_AGAIN, Arm, shadowed
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import ResponseChecks
from loradeck_agent.router.admission import Admitted, Other
from loradeck_agent.router.engine_room import EngineRoom
from loradeck_agent.router.pairs import Outcome, Pair, Pairs
from loradeck_agent.router.request_body import Asked
from loradeck_agent.router.response_checks import ANSWER_CAP, Checks, Verdict

MOST = 250
"""Requests that wait to be asked again, or are being asked, at most."""

MOST_BYTES = 8 * 2**20
"""Bytes of their bodies, at most."""

PATIENCE_S = 5.0
"""A request that finds no room on its engine for so long after its admission is not asked again."""

_NOT_OF_THE_RELEASE = frozenset({401, 403, 404, 405, 408, 429, 503})
"""Statuses of an engine that say nothing about the release: it is gone there, or there was no room."""


@dataclass(eq=False)
class AskAgain:
    """The requests that are asked again, by pointer: all of one end at once when another release is to be asked."""

    _checks: Checks
    _room: EngineRoom
    _tasks: dict[PointerKey, set[asyncio.Task[None]]] = field(default_factory=dict, init=False)
    _number: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)

    def offer(self, admitted: Admitted, path: str, asked: Asked) -> None:
        """Asks an admitted request again if its release is to be compared with another, and it is drawn."""
        target, row = admitted.target, admitted.row
        other = target.other
        if other is None or not row.voter or not row.sampled:
            return
        if admitted.stale_s is not None or row.admitted_ms >= other.until_ms:
            return
        if other.permille is not None:
            arm = shadowed(other.permille, random.random())
            if arm is None:
                return
            if arm is Arm.LIVE:
                other = replace(other, release=row.release, replica=target.replica, model=target.model)
        pairs = target.counter.pairs_with(other.release, shadow=other.permille is not None)
        if other.permille is None and not pairs.drawn(row.admitted_ns):
            return
        body = asked.whole(other.model)
        if self._number >= MOST or self._bytes + len(body) > MOST_BYTES:
            pairs.shed()
            return
        admitted.pair = pair = pairs.begin(row.admitted_ns)
        key, checks = (row.tenant, row.route), admitted.checks
        task = asyncio.get_running_loop().create_task(self._ask(pair, pairs, other, path, body, checks))
        self._tasks.setdefault(key, set()).add(task)
        self._number += 1
        self._bytes += len(body)

        def over(task: asyncio.Task[None]) -> None:
            self._number -= 1
            self._bytes -= len(body)
            pair.dropped = pair.dropped or task.cancelled()
            of_key = self._tasks[key]
            of_key.discard(task)
            if not of_key:
                del self._tasks[key]

        task.add_done_callback(over)

    def end(self, key: PointerKey) -> None:
        """Ends what is asked again on a pointer: its release, or the one that is asked, is another now."""
        for task in self._tasks.get(key, ()):
            task.cancel()

    def end_all(self) -> None:
        """Ends what is asked again on every pointer."""
        for key in self._tasks:
            self.end(key)

    async def close(self) -> None:
        """Ends everything, and waits for it."""
        self.end_all()
        await asyncio.gather(*(task for of_key in self._tasks.values() for task in of_key), return_exceptions=True)

    async def _ask(
        self, pair: Pair, pairs: Pairs, other: Other, path: str, body: bytes, checks: ResponseChecks
    ) -> None:
        replica, until_s = other.replica, pair.at_ns / 1e9 + PATIENCE_S
        share = other.permille / 1000 if other.permille is not None else 1.0 if pair.opening else ASKED_AGAIN
        if not await self._room.take(replica, until_s=until_s, share=share):
            pair.dropped = True
            pairs.shed()
            return
        try:
            pairs.asked()
            async with (
                asyncio.timeout(HORIZON_S),
                replica.session.post(
                    replica.urls[path], data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
                ) as answer,
            ):
                raw, status = await answer.read(), answer.status
        except TimeoutError:
            return  # what is not over by then is for `Pairs` to judge
        except aiohttp.ClientError:
            pair.again = Outcome(failed=True)
            return
        finally:
            replica.again -= 1
        if status in _NOT_OF_THE_RELEASE:
            pair.dropped = True
        elif status == 200 and len(raw) <= ANSWER_CAP and self._checks.has_room(checks):

            def judged(verdict: Verdict | None) -> None:
                pair.again = Outcome(failed=False, bad=None if verdict is None else verdict.bad)

            self._checks.submit(raw, streamed=False, checks=checks, done=judged)
        else:
            pair.again = Outcome(failed=status >= 500)
