"""Steps towards serving a release on an engine.

Of those that failed: when each is tried again, and what is said of it. And those that are taken beside the engine's
rounds, however long they take.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.router.wire import ack_about
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable

log = logging.getLogger(__name__)

RETRY_REACH_S = 10.0
RETRY_FAULT_S = 60.0
"""Longest pauses after a failed load: where the hub did not answer; where the artifact or the engine is at fault."""


@dataclass
class Failure:
    """The newest failure of one release on one engine, and until when it is not tried again."""

    error: AgentError
    times: int
    retry_at: float
    moves: frozenset[tuple[PointerKey, tuple[int, int]]]
    """Pointers that named the release as their current one, with their fences. A later move to it does not wait."""


@dataclass(eq=False)
class LoadFailures:
    """The failures of a node's engines, by engine and release."""

    _table: DesiredTable
    _acks: AckBoard
    kept: dict[tuple[str, str], Failure] = field(default_factory=dict, init=False)

    def pause(self, engine: str, ref: ReleaseRef) -> float:
        """Seconds for which a release is not tried that failed a moment ago, unless a pointer has moved to it since."""
        failure = self.kept.get((engine, ref.id))
        if failure is None or not failure.moves >= self._moves_to(ref):
            return 0.0
        return failure.retry_at - time.monotonic()

    def now(self) -> set[str]:
        """Returns the releases that an engine is not asked to load now, since they have failed a moment ago."""
        now = time.monotonic()
        return {ref for (_, ref), failure in self.kept.items() if failure.retry_at > now}

    def over(self, engine: str, release: str) -> None:
        """Forgets that a release has failed on an engine: it can be asked for after all."""
        self.kept.pop((engine, release), None)

    def clear(self) -> None:
        """Forgets how long to wait after failures."""
        self.kept.clear()

    async def note(self, engine: str, ref: ReleaseRef, error: AgentError) -> float:
        """Notes a failed load and reports it where the release is to be served. Returns seconds until the next try."""
        key = (engine, ref.id)
        before = self.kept.get(key)
        times = before.times + 1 if before else 1
        cap = RETRY_REACH_S if isinstance(error, Unreachable) else RETRY_FAULT_S
        pause = random.uniform(0.2, min(cap, 0.5 * 2**times))
        self.kept[key] = Failure(error, times, time.monotonic() + pause, self._moves_to(ref))
        if before is None or before.error.code != error.code:
            log.error("%s cannot serve %s %s: %s", engine, ref.release.tenant, ref.label or ref.id[:6], error)
        for entry in self._table.entries.values():
            if entry.current is not None and entry.current.id == ref.id:
                waits = self._acks.flips.get((*entry.key, engine))  # it says who answers meanwhile
                gap = waits.detail if waits is not None and waits.state is AckState.WAITING else ""
                detail = "; ".join(part for part in (gap, error.sentence) if part)
                await self._acks.post(ack_about(entry, engine, AckState.FAILED, error.code, detail))
        return pause

    def _moves_to(self, ref: ReleaseRef) -> frozenset[tuple[PointerKey, tuple[int, int]]]:
        """The moves by which pointers name a release as their current one."""
        entries = self._table.entries.values()
        return frozenset((e.key, e.fence) for e in entries if e.current is not None and e.current.id == ref.id)


BESIDE = 4
"""How many releases take such a step on one engine at a time."""

BROKEN_S = 5.0
"""Seconds before a step is taken again that broke by a mistake of ours."""


@dataclass(eq=False)
class StepsBeside:
    """Steps of one kind, by engine and release. `due`: called with the engine's name once a round is due there."""

    _failures: LoadFailures
    _due: Callable[[str], None]
    _tasks: dict[tuple[str, str], asyncio.Task[None]] = field(default_factory=dict, init=False)

    def releases(self, engine: str) -> set[str]:
        """Names the releases that take a step on an engine now."""
        return {release for name, release in self._tasks if name == engine}

    def begin(self, engine: str, ref: ReleaseRef, step: Callable[[], Awaitable[object]]) -> None:
        """Takes a step, unless the release or enough others take one there."""
        if ref.id not in (under_way := self.releases(engine)) and len(under_way) < BESIDE:
            self._tasks[engine, ref.id] = asyncio.create_task(self._take(engine, ref, step))

    async def _take(self, engine: str, ref: ReleaseRef, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except AgentError as error:
            await self._failures.note(engine, ref, error)
        except Exception:
            log.exception("%s: a step towards %s %s broke", engine, ref.release.tenant, ref.label or ref.id[:6])
            await asyncio.sleep(BROKEN_S)
        finally:
            del self._tasks[engine, ref.id]
            self._due(engine)

    def cancel(self, engine: str) -> None:
        """Ends the steps on an engine."""
        for (name, _), task in list(self._tasks.items()):
            if name == engine:
                task.cancel()
