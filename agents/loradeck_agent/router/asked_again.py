"""Asks an engine again what callers have asked.

Behind all callers another release is asked the same, and its answers are thrown away. It is the one beneath the live
release, or a candidate that shadows it; beside a shadow the live release is asked twice as well. What they make of it
is counted in pairs (`votes.Pairs`), and in no other count, trace or limit.

Where an engine has failed a request, that tells the fault of the request from that of the release: what it also fails
under the base or the prior is no sign of a bad release. The request is asked once more, for one token, of the base
alone on the same engine (of the prior, where the release is a base itself), and beside it a harmless one: an engine
that fails that as well is not well, and then it counts. One answer holds for the same caller's failures of a second, so
that a caller costs its neighbours little.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import aiohttp

from loradeck.rules.quality.detection import HORIZON_S
from loradeck.rules.quality.sampling import ASKED_AGAIN, Arm, shadowed
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import ResponseChecks
from loradeck_agent.router.admission import Admitted, Other
from loradeck_agent.router.engine_pools import EnginePool, EngineRoom
from loradeck_agent.router.request_body import Asked
from loradeck_agent.router.response_checks import ANSWER_CAP, Checks, Verdict
from loradeck_agent.router.votes import Outcome, Pair, Pairs

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


log = logging.getLogger(__name__)

HOLDS_S = 1.0
"""How long the answer about a caller's request holds for its other ones that fail."""

WAIT_S = 5.0
"""How long finding out may take. The caller waits for its refusal meanwhile; after that it is the release's fault."""

AT_ONCE = 2
"""Questions to the engines at once, for all callers together."""

KEPT = 1000
"""Callers whose last answer is kept."""

_NOT_OF_THE_REQUEST = frozenset({401, 403, 404, 405, 408, 429})
"""Statuses of an engine that say nothing about what a request holds."""

_HARMLESS = {"messages": [{"role": "user", "content": "a"}]}, {"prompt": "a"}

About = tuple[str, str, str]
"""A caller, a release and a replica."""


@dataclass(eq=False)
class RequestFaults:
    """Finds out whose fault failures are. `_clock` is monotonic, in seconds."""

    _clock: Callable[[], float] = time.monotonic
    _asking: dict[About, asyncio.Task[bool]] = field(default_factory=dict, init=False)
    _known: dict[About, tuple[float, bool]] = field(default_factory=dict, init=False)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE), init=False)

    async def is_of_request(self, caller: str, admitted: Admitted, path: str, asked: Asked) -> bool:
        """Tells whether a request that its engine failed would fail under any release. `caller`: digest of its key."""
        about = (caller, admitted.row.release, admitted.row.replica)
        until, known = self._known.get(about, (0.0, False))
        if self._clock() < until:
            return known
        task = self._asking.get(about)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._find_out(about, admitted, path, asked))
            self._asking[about] = task
            task.add_done_callback(lambda _: self._asking.pop(about, None))
        return await asyncio.shield(task)

    async def _find_out(self, about: About, admitted: Admitted, path: str, asked: Asked) -> bool:
        try:
            async with asyncio.timeout(WAIT_S), self._places:
                found = await _fails_anyhow(admitted, path, asked)
        except (TimeoutError, aiohttp.ClientError) as error:
            log.info("%s: it is not known whose fault a failed request is: %s", about[2], error)
            found = False
        if len(self._known) >= KEPT:
            self._known.pop(next(iter(self._known)))
        self._known.pop(about, None)
        self._known[about] = (self._clock() + HOLDS_S, found)
        return found

    async def close(self) -> None:
        """Gives up what is being found out."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _fails_anyhow(admitted: Admitted, path: str, asked: Asked) -> bool:
    """Tells whether the engine fails the request for another model too, and a harmless request not."""
    replica = admitted.target.replica
    other = _other_model(admitted)
    if other is None:
        return False
    status = await _status(replica, path, asked.for_one_token(other))
    if status < 400 or status in _NOT_OF_THE_REQUEST:
        return False
    harmless = _HARMLESS[0] if "chat" in path else _HARMLESS[1]
    return await _status(replica, path, json.dumps({"model": other, "max_tokens": 1, **harmless}).encode()) == 200


def _other_model(admitted: Admitted) -> str | None:
    """The model that a request is compared on: the base alone, or the prior where the release is a base itself."""
    replica, beneath = admitted.target.replica, admitted.plan.entry.beneath
    names = (replica.at.base_name, *(replica.model_name(ref) for ref in beneath if replica.serves(ref)))
    return next((name for name in names if name != admitted.target.model), None)


async def _status(replica: EnginePool, path: str, body: bytes) -> int:
    headers = {"Content-Type": "application/json"}
    async with replica.session.post(replica.urls[path], data=body, headers=headers, allow_redirects=False) as answer:
        await answer.read()
        return answer.status
