"""Starts and stops engines: the rules choose from the table which of them run.

An engine whose base is not wanted any more is stopped before another is started: memory may not hold both.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

from loradeck.rules.serving.engines import Engine, to_run, wanted_bases
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import JobAssignment, PrepareSpec
from loradeck.schemas.table import ReleaseRef, TableEntry
from loradeck_agent.host.errors import AgentError
from loradeck_agent.serving.engine_lifecycle import EngineLife
from loradeck_agent.serving.reconciler import PREPARED_S, Reconciler
from loradeck_agent.uplink.desired_table import DesiredTable

log = logging.getLogger(__name__)

ROUND_S = 5.0
"""Longest time until an ended hold of `hold_prior_s` is noticed."""


@dataclass(frozen=True)
class _Prepare:
    """A prepare of this node. Its release is wanted while it runs; then for as long as the hub's entry is being
    prepared, but not beyond monotonic `until`, in seconds: a hub that is gone must not keep a live engine stopped."""

    key: PointerKey
    generation: int
    ref: ReleaseRef
    swap: bool
    until: float | None = None
    """None: it still runs."""


@dataclass(eq=False)
class EngineSchedule:
    """Starts and stops the engines that run only while something wants their base.

    `known`: returns once the table and the bases of the engines are known; nothing is stopped before.
    """

    lives: Sequence[EngineLife]
    _: KW_ONLY
    table: DesiredTable
    reconciler: Reconciler
    memory_gb: float | None
    hold_prior_s: float
    known: Callable[[], Awaitable[None]]
    _prepares: dict[str, _Prepare] = field(default_factory=dict, init=False)
    _wake: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def wake(self) -> None:
        """Makes a round due, because the table or the pins changed."""
        self._wake.set()

    async def run(self) -> None:
        """Starts and stops engines in rounds, until cancelled."""
        if all(life.engine.config.start == "always" for life in self.lives):
            return
        await self.known()
        while True:
            self._wake.clear()
            try:
                await self._round()
            except AgentError as error:
                log.error("engines cannot be started and stopped as they should: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._wake.wait()

    async def _round(self) -> None:
        chosen = self._chosen()
        ending = [life for life in self.lives if life.engine.name not in chosen]
        if self.table.cursor.rev:  # before the hub's first table it is not known that nothing is wanted
            await asyncio.gather(*(life.stop() for life in ending))
        for life in self.lives:
            if life.engine.name in chosen:
                life.start()

    def _chosen(self) -> frozenset[str]:
        engines = [
            Engine(
                name=life.engine.name,
                base=life.engine.base,
                always=life.engine.config.start == "always",
                memory_gb=life.engine.config.memory_gb or 0.0,
            )
            for life in self.lives
        ]
        self._prepares = {job: one for job, one in self._prepares.items() if not self._is_over(one)}
        bases = wanted_bases(
            self._entries(),
            pins=self.table.pins.values(),
            now_ms=time.time_ns() // 1_000_000,
            hold_prior_s=self.hold_prior_s,
            swaps={one.key for one in self._prepares.values() if one.swap},
        )
        return to_run(engines, bases, self.memory_gb)

    def _is_over(self, one: _Prepare) -> bool:
        """Tells whether a prepare's promote was committed or came to nothing."""
        entry = self.table.entries.get(one.key)
        if entry is not None and entry.generation > one.generation:
            return True
        if one.until is None:
            return False
        pending = entry is not None and entry.preparing is not None and entry.preparing.id == one.ref.id
        return not pending or one.until < time.monotonic()

    def _entries(self) -> list[TableEntry]:
        """The table, with what is being prepared here: its job may be here before its entry."""
        preparing = {one.key: one.ref for one in self._prepares.values()}
        entries = []
        for entry in self.table.named():
            ref = preparing.pop(entry.key, None)
            entries.append(entry if ref is None else entry.model_copy(update={"preparing": ref}))
        for (tenant, route), ref in preparing.items():
            entries.append(TableEntry(tenant=tenant, route=route, epoch=0, generation=0, current=None, preparing=ref))
        return entries

    @contextlib.contextmanager
    def preparing(self, job: JobAssignment) -> Iterator[None]:
        """Keeps the engines of a prepare's base wanted while it runs, and for a while after it succeeded.

        Raises: AgentError: `no_memory`, none of them fits beside those that must run.
        """
        ref, spec = job.release, job.spec
        if ref is None or not isinstance(spec, PrepareSpec):
            yield
            return
        self._prepares[job.id] = _Prepare((spec.tenant, spec.route), spec.expected_generation, ref, job.swap)
        try:
            self._must_fit(ref)
            self.wake()
            yield
        except BaseException:
            self._prepares.pop(job.id, None)
            self.wake()
            raise
        if job.id in self._prepares:
            self._prepares[job.id] = replace(self._prepares[job.id], until=time.monotonic() + PREPARED_S)

    def _must_fit(self, ref: ReleaseRef) -> None:
        placed = [life.engine for life in self.lives if life.engine.runs(ref)]
        chosen = self._chosen()
        if placed and not any(engine.name in chosen for engine in placed):
            raise AgentError(
                "no_memory",
                "no engine of the release's base fits beside those that must run",
                f"{placed[0].name} takes {placed[0].config.memory_gb:g} GB, the node has {self.memory_gb:g}",
                "move what is live on the other engine away, or override the promote where it alone is live there",
            )
