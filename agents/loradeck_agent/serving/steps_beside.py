"""Steps towards serving a release that are taken beside the rounds of its engine, however long they take."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import AgentError
from loradeck_agent.serving.load_failures import LoadFailures

log = logging.getLogger(__name__)

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
