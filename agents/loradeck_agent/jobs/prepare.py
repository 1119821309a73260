"""A prepare job: before a promote commits, its release is made ready on every reachable replica of its base here.

Fetched, verified, loaded, and its canaries answered: after that the promote is a pointer move like any other.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from loradeck.schemas.ids import short
from loradeck.schemas.jobs import JobAssignment
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import AgentError
from loradeck_agent.serving.engine_api import Canaries
from loradeck_agent.serving.engine_lifecycle import ENGINE_READY_S
from loradeck_agent.serving.reconciler import Reconciler
from loradeck_agent.serving.replica import EngineReplica

START_S = 120.0


async def prepare(job: JobAssignment, engines: Sequence[EngineReplica], reconciler: Reconciler) -> dict[str, Any]:
    """Makes a job's release ready. Returns `{replica: {"level", "code", "canaries"}}`.

    Raises: AgentError: `no_replica` when no engine here runs its base; else why a replica could not be made ready.
    Nothing that is served has changed.
    """
    ref = job.release
    if ref is None:
        raise AgentError("bad_job", "the job names no release", job.id)
    placed = await up_with_base(engines, ref.release.served_base)
    results = await asyncio.gather(*(_on(engine, ref, job.canaries, reconciler) for engine in placed))
    return {engine.name: result for engine, result in zip(placed, results, strict=True)}


async def up_with_base(engines: Sequence[EngineReplica], base: str) -> list[EngineReplica]:
    """Waits for engines that are starting; returns those that are up with a base.

    Raises: AgentError: `no_replica`: there is none.
    """
    await _until_known(engines)
    placed = [engine for engine in engines if engine.base == base]
    await _until_up(placed)
    placed = [engine for engine in placed if engine.up]
    if not placed:
        others = ", ".join(
            f"{engine.name} runs {short(engine.base)}" if engine.up else f"{engine.name} is {engine.state.value}"
            for engine in engines
        )
        raise AgentError(
            "no_replica",
            "no engine of this node runs the release's base",
            f"base {short(base)}; {others or 'there is no engine here'}",
        )
    return placed


async def _until_known(engines: Sequence[EngineReplica]) -> None:
    """An engine whose base is not known yet may be one that the release is for: it is waited for, within reason."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            await asyncio.gather(*(engine.began.wait() for engine in engines if engine.base is None))


async def _until_up(engines: Sequence[EngineReplica]) -> None:
    """Engines that are starting, or that this prepare has started, are waited for; one that crashed is not."""
    coming = [engine for engine in engines if engine.state is not EngineState.DOWN]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ENGINE_READY_S):
            await asyncio.gather(*(_up_or_ended(engine) for engine in coming))


async def _up_or_ended(engine: EngineReplica) -> None:
    """Until an engine is up, or has ended instead."""
    up, ended = (asyncio.create_task(event.wait()) for event in (engine.running, engine.ended))
    try:
        await asyncio.wait({up, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        up.cancel()
        ended.cancel()


async def _on(engine: EngineReplica, ref: ReleaseRef, canaries: Canaries, reconciler: Reconciler) -> dict[str, Any]:
    verdict = await reconciler.make_ready(engine, ref, canaries)
    return {"level": verdict.level.value, "code": verdict.code, "canaries": len(canaries)}
