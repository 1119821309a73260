"""Liveness of an engine: it is asked every two seconds, whatever else is asked of it, whether it answers.

A process that hangs (a stopped process, a GPU call that does not return) does not end, so its supervisor sees nothing.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.serving.replica import EngineReplica

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Between two looks, and what an answer may take. One that is busy answers; what is slower is of no use to a caller."""

SILENCES = 3
"""Looks in a row without an answer after which an engine counts as one that does not answer: after 8 s at most."""


@dataclass(eq=False)
class Liveness:
    """Asks one engine whether it answers while it is up, and keeps `engine.silent_since`."""

    engine: EngineReplica
    _silences: int = field(default=0, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)
    """When the latest look began, monotonic seconds."""

    async def run(self) -> None:
        """Asks the engine every `LOOK_S` seconds whether it answers, until cancelled."""
        while True:
            await asyncio.sleep(max(0.0, self._began + LOOK_S - time.monotonic()))
            await self.look()

    async def look(self) -> None:
        """Asks the engine once whether it answers. One that is not up is not asked: its state says all."""
        engine, self._began = self.engine, time.monotonic()
        if not engine.up or await self._answers():
            if engine.silent_since is not None:
                log.warning("engine %s answers again", engine.config.name)
            self._silences, engine.silent_since = 0, None
            return
        self._silences += 1
        if self._silences == SILENCES:
            engine.silent_since = self._began - (SILENCES - 1) * LOOK_S
            log.error("engine %s runs and does not answer", engine.config.name)

    async def _answers(self) -> bool:
        try:
            await self.engine.api.healthy(timeout=LOOK_S)
        except Unreachable as error:
            return not error.silent  # one that refuses connections has ended, and its supervisor knows it
        except AgentError:
            return True
        return True
