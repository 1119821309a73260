"""Room on engines for what no caller waits for: asking again, and judging. Callers come first."""

import asyncio
import re
import time
from dataclasses import dataclass, field

import aiohttp

from loradeck.rules.quality.sampling import may_ask_again
from loradeck_agent.router.engine_pools import EnginePool

_AGAIN_S = 0.1
_READ_S = 0.25  # how long the number of requests that wait in an engine holds
_METRICS_S = 2.0
_WAITING = re.compile(r"^vllm:num_requests_waiting(?:\{[^}\n]*\})? ([0-9.e+]+)\s*$", re.MULTILINE)


@dataclass(eq=False)
class EngineRoom:
    """Finds room, one after the other on each engine."""

    _turns: dict[str, asyncio.Lock] = field(default_factory=dict, init=False)
    _waiting: dict[str, tuple[float, int | None]] = field(default_factory=dict, init=False)

    async def take(self, replica: EnginePool, *, until_s: float, share: float) -> bool:
        """Waits for room on an engine, and counts one more answer there that nobody gets: the caller ends it.

        Args:
            until_s: until when it is waited for, by the monotonic clock.
            share: as in `may_ask_again`.

        Returns: whether there was room in time.
        """
        async with self._turns.setdefault(replica.name, asyncio.Lock()):
            while not may_ask_again(replica.open, replica.again, await self._waiting_in(replica), share=share):
                if time.monotonic() >= until_s:
                    return False
                await asyncio.sleep(_AGAIN_S)
            replica.again += 1
            return True

    async def _waiting_in(self, replica: EnginePool) -> int | None:
        """The requests that wait in an engine, by its metrics; None: it does not say."""
        read_at, waiting = self._waiting.get(replica.name, (0.0, None))
        if time.monotonic() - read_at < _READ_S:
            return waiting
        try:
            timeout = aiohttp.ClientTimeout(total=_METRICS_S)
            async with replica.session.get(replica.metrics, allow_redirects=False, timeout=timeout) as answer:
                found = _WAITING.findall(await answer.text()) if answer.status == 200 else []
        except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
            found = []
        waiting = round(sum(map(float, found))) if found else None
        self._waiting[replica.name] = (time.monotonic(), waiting)
        return waiting
