"""Looks at engines that run: they have to answer, and their models have to work.

Each is asked every two seconds, whatever else is asked of it: a process that hangs (a stopped one, a GPU call that does
not return) does not end, so its supervisor sees nothing.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from loradeck.rules.serving.engine_steps import PROBE_S, StepWatch
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.router.client import RouterControl
from loradeck_agent.serving.replica import EngineReplica

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Between two looks, and what an answer may take. One that is busy answers; what is slower is of no use to a caller."""

HOLDS_S = 3 * LOOK_S
"""How long a router keeps requests away from an engine of which it hears nothing more: an agent may end meanwhile."""

SILENCES = 3
"""Looks in a row without an answer after which an engine counts as one that does not answer: after 8 s at most."""


@dataclass(eq=False)
class Liveness:
    """Looks at one engine while it is up, and keeps its `silent_since` and `stands_still`."""

    engine: EngineReplica
    _router: RouterControl
    _silences: int = field(default=0, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)
    """When the latest look began, monotonic seconds."""
    _is_kept_away: bool = field(default=False, init=False)
    """The router keeps requests away from it."""
    _watch: StepWatch = field(default_factory=StepWatch, init=False)

    async def run(self) -> None:
        """Looks at the engine every `LOOK_S` seconds, until cancelled."""
        while True:
            await asyncio.sleep(max(0.0, self._began + LOOK_S - time.monotonic()))
            await self.look()

    async def look(self) -> None:
        """Looks at the engine once, and has the router keep requests away from it while it does not answer."""
        await self._look()
        is_silent = self.engine.silent_since is not None
        if is_silent or self._is_kept_away:
            try:
                await self._router.silent(self.engine.name, HOLDS_S if is_silent else 0.0)
                self._is_kept_away = is_silent
            except AgentError as error:
                log.debug("the router does not know how engine %s is: %s", self.engine.config.name, error)

    async def _look(self) -> None:
        """Finds out whether the engine answers. What is not up is not asked: its state says all."""
        engine, self._began = self.engine, time.monotonic()
        version = engine.version
        if engine.up and not await self._is_well():
            self._silences += 1
            if self._silences == SILENCES:
                engine.silent_since = self._began - (SILENCES - 1) * LOOK_S
                log.error("engine %s runs and does not answer", engine.config.name)
            return
        self._silences = 0
        since = await self._still_since() if engine.up else None
        if not engine.up or engine.version is not version:  # it has ended meanwhile, and another may have begun
            self._watch = StepWatch()
            since = None
        if since is None:
            if engine.silent_since is not None:
                log.warning("engine %s answers again", engine.config.name)
            engine.silent_since, engine.stands_still = None, False
        elif engine.silent_since is None:
            engine.silent_since, engine.stands_still = since, True
            log.error("engine %s says that it is well, makes no step and does not answer", engine.config.name)

    async def _is_well(self) -> bool:
        try:
            await self.engine.api.healthy(timeout=LOOK_S)
        except Unreachable as error:
            return not error.silent  # one that refuses connections has ended, and its supervisor knows it
        except AgentError:
            return True
        return True

    async def _still_since(self) -> float | None:
        """Since when it makes no step under requests, and answers none for one token either; None: it works.

        While an adapter of ours is loaded nothing is said: vLLM reads it within a step.
        """
        engine = self.engine
        try:
            is_asked = engine.silent_since is not None or (not engine.changing.locked() and await self._is_asked())
            steps = await engine.api.steps(timeout=LOOK_S) if is_asked else None
            since = self._watch.look(self._began, steps, is_asked=is_asked)
            if since is None or await engine.api.answers(engine.build.base_name, timeout=PROBE_S):
                return None
        except AgentError as error:
            log.debug("the steps of engine %s are not known: %s", engine.config.name, error)
            return engine.silent_since
        return since

    async def _is_asked(self) -> bool:
        use = await self._router.use(counts=False, timeout=LOOK_S)
        return self.engine.name in use.answering
