"""The room that this node has for jobs: a number of them on its CPU, and its GPUs, each for one job by its UUID.

What a job holds stands in its `job.json` too, so that an agent that is started again knows of it before it gives
anything to the next one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from loradeck.rules.scheduling import Holders, NoFreeGpu, free_gpus, reserved
from loradeck.schemas.ids import LINE
from loradeck.schemas.link import JobHold, JobRoom
from loradeck.schemas.telemetry import Gpu, NvmlState
from loradeck_agent.host.engine_config import EngineConfig, VllmEngine
from loradeck_agent.host.errors import AgentError
from loradeck_agent.jobs.executor import Executor
from loradeck_agent.telemetry.sampler_watch import Telemetry

log = logging.getLogger(__name__)

STARTING_S = 60
"""Seconds that a job waits for the first sample of the GPUs."""

FREED_S = 1.0
"""How often a job that waits for GPUs looks whether they are free: a process may have ended that is no job."""

LET_GO_LOOKS = 60
"""How often it looks where memory is missing that nobody is seen to hold, before somebody does."""

FIX = "free one, or name in `gpus` under [jobs] those that jobs may share with an engine"


@dataclass(eq=False)
class Room:
    """The GPUs and the host memory of this node that jobs may use, and which job holds each part.

    `at_once`: jobs without a GPU of their own; `telemetry` None: they run elsewhere, where a scheduler gives them GPUs.
    `given`: UUIDs that jobs may use beside an engine; none: those that nothing uses.
    """

    at_once: int = 1
    telemetry: Telemetry | None = None
    engines: tuple[EngineConfig, ...] = ()
    given: Collection[str] = ()
    _held: dict[Executor, None] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @asynccontextmanager
    async def taken(self, executor: Executor, counts: Sequence[int]) -> AsyncIterator[str | None]:
        """Takes what a job needs, once other jobs leave it. Gives its CUDA_VISIBLE_DEVICES; None: they are left alone.

        One that an earlier agent began has its place already. What still runs at the end keeps it until `left`.

        `counts`: of GPUs, one for each of its processes, the most wanted first; empty: it computes on the CPU.

        Raises: AgentError: `gpus_taken`: so many are not free and no job holds them, or nobody can say. Memory that
        nobody is seen to hold is waited for a minute.
        """
        try:
            if executor.started:
                if counts and not executor.attempt.gpus:  # an agent of the version before noted none
                    seen = _visible(executor.attempt.pid)
                    executor.workload.attempt = executor.attempt.model_copy(update={"gpus": seen})
                self._held[executor] = None
                yield None
            else:
                yield await self._taken(executor, counts)
        finally:
            if not (executor.started and executor.workload.look().alive):
                await self.left(executor)

    async def left(self, executor: Executor) -> None:
        """Gives back what a job held whose processes have ended."""
        self._held.pop(executor, None)
        async with self._changed:
            self._changed.notify_all()

    async def _taken(self, executor: Executor, counts: Sequence[int]) -> str | None:
        gpus = await self._gpus(asked=bool(counts))
        if not counts or not gpus:
            async with self._changed:
                await self._changed.wait_for(lambda: sum(not e.attempt.gpus for e in self._held) < self.at_once)
                self._held[executor] = None
            return "" if gpus else None
        said, looks = False, 0
        while True:
            try:
                mine = reserved(gpus, counts, self._holders(gpus))
            except NoFreeGpu as error:
                looks += not error.later
                if not error.later and not (error.soon and looks <= LET_GO_LOOKS):
                    raise AgentError("gpus_taken", "the job finds no GPU", str(error), FIX) from error
                if not said:
                    log.info("job %s waits for GPUs: %s", executor.attempt.job.id, error)
                said = True
            else:
                self._held[executor] = None
                executor.workload.note(gpus=mine)
                log.info("job %s has the GPUs %s", executor.attempt.job.id, " ".join(mine))
                return ",".join(mine)
            async with self._changed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(FREED_S):
                        await self._changed.wait()
            gpus = await self._gpus(asked=True)

    async def _gpus(self, *, asked: bool) -> tuple[Gpu, ...]:
        """The GPUs that jobs may be given, failing ones and taken ones too; (): the node has none, or none counts.

        Raises: AgentError: `gpus_taken`: some are asked for, and nobody can say which are free.
        """
        if self.telemetry is None:
            return ()
        for _ in range(STARTING_S):  # of an agent that was started just now
            if self.telemetry.current()[0] is not NvmlState.STARTING:
                break
            await asyncio.sleep(1)
        state, gpus = self.telemetry.current()
        if state is NvmlState.NO_GPU or (state is NvmlState.FAILED and not gpus):
            return ()
        if asked and state not in _COUNTED:
            why = f"NVML: {state}"
            raise AgentError("gpus_taken", "nobody can say which GPUs are free", why, "see the agent's log")
        return gpus

    def _holders(self, gpus: Iterable[Gpu]) -> Holders:
        listed = {process.pid for gpu in gpus for process in gpu.processes}
        return Holders(
            engines={uuid: e.name for e in self.engines if isinstance(e, VllmEngine) for uuid in e.gpus},
            running={pid for pid in listed if Path(f"/proc/{pid}").exists()},  # the list is some seconds old
            shared=self.given,
            jobs={uuid: executor.attempt.job.id for executor in self._held for uuid in executor.attempt.gpus},
        )

    def report(self) -> JobRoom | None:
        """Says what there is for a further job, by which the hub gives this node jobs; None: it cannot be said yet."""
        if self.telemetry is None:
            return None
        state, gpus = self.telemetry.current()
        if state is NvmlState.STARTING:
            return None
        free, why = free_gpus(gpus, self._holders(gpus)) if state in _COUNTED else ([], [f"NVML: {state}"])
        return JobRoom(
            at_once=self.at_once,
            gpus=tuple(gpu.uuid for gpu in free),
            taken="; ".join(why)[:LINE] if gpus else "",
            held=tuple(
                JobHold(job=e.attempt.job.id, gpus=e.attempt.gpus, memory_bytes=own_memory(e.attempt.pid))
                for e in self._held
            ),
        )


_COUNTED = (NvmlState.OK, NvmlState.LOST)


def _visible(pid: int | None) -> tuple[str, ...]:
    """UUIDs of the GPUs that a process was begun with."""
    said, name = b"", b"CUDA_VISIBLE_DEVICES="
    with suppress(OSError):
        of = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        said = next((one.removeprefix(name) for one in of if one.startswith(name)), b"")
    return tuple(gpu for gpu in said.decode("utf-8", "replace").split(",") if gpu.startswith("GPU-"))


def own_memory(pid: int | None) -> int:
    """Bytes of memory that a process and its descendants have for themselves, or share with each other by name.

    Pages of files, as of a base's weights, are left out: the kernel takes them back.
    """
    total, left = 0, [pid] if pid is not None else []
    while left:
        folder = Path(f"/proc/{left.pop()}")
        with suppress(OSError, ValueError):  # it has ended
            for line in (folder / "status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
            for task in (folder / "task").iterdir():
                left += map(int, (task / "children").read_text().split())
    return total
