"""Tells the fault of a request from that of a release: what an engine also fails under the base or the prior is no sign
of a bad release.

The same request is asked once more, for one token, of the base alone on the same engine (of the prior, where the
release is a base itself), and beside it a harmless one: an engine that fails that as well is not well, and then it
counts. One answer holds for the same caller's failures of a second, so that a caller costs its neighbours little.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from loradeck_agent.router.admission import Admitted
from loradeck_agent.router.engine_pools import EnginePool
from loradeck_agent.router.request_body import Asked

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
