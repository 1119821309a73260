"""A prepare job: before a promote commits, its release is made ready on every reachable replica of its base here.

Fetched, verified, loaded, and its canaries answered: after that the promote is a pointer move like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from loradeck.schemas.jobs import JobAssignment
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.errors import AgentError
from loradeck_agent.reconcile import Reconciler
from loradeck_agent.replica import EngineReplica
from loradeck_agent.verify import Canaries

START_S = 120.0


async def prepare(job: JobAssignment, engines: Sequence[EngineReplica], reconciler: Reconciler) -> dict[str, Any]:
    """Makes a job's release ready. Returns `{replica: {"level", "code", "canaries"}}`.

    Raises:
        AgentError: `no_replica` when no engine here runs its base; else what went wrong on a replica. What is
            being served has not changed.
    """
    ref = job.release
    if ref is None:
        raise AgentError("bad_job", "the job names no release", job.id)
    await _until_started(engines)
    running = [engine for engine in engines if engine.up]
    placed = [engine for engine in running if engine.runs(ref)]
    if not placed:
        others = ", ".join(f"{engine.name} runs {engine.build.base[:6]}" for engine in running)
        raise AgentError(
            "no_replica",
            "no engine of this node runs the release's base",
            f"base {ref.release.served_base[:6]}; {others or 'no engine is up'}",
        )
    results = await asyncio.gather(*(_on(engine, ref, job.canaries, reconciler) for engine in placed))
    return {engine.name: result for engine, result in zip(placed, results, strict=True)}


async def _until_started(engines: Sequence[EngineReplica]) -> None:
    """An engine that is starting may be one that the release is for: it is waited for, within reason."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            await asyncio.gather(*(engine.began.wait() for engine in engines))


async def _on(engine: EngineReplica, ref: ReleaseRef, canaries: Canaries, reconciler: Reconciler) -> dict[str, Any]:
    verdict = await reconciler.make_ready(engine, ref, canaries)
    return {"level": verdict.level.value, "code": verdict.code, "canaries": len(canaries)}
