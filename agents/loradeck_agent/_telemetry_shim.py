"""Stands in until `loradeck_agent.telemetry.watch` is there. It measures nothing, and reports say just that."""

from __future__ import annotations

import asyncio

from loradeck.schemas.telemetry import Gpu, Host, NvmlState


class Seen:
    host: Host | None = None
    gpus: tuple[Gpu, ...] = ()
    nvml = NvmlState.STARTING


class Telemetry:
    async def run(self) -> None:
        await asyncio.get_running_loop().create_future()

    def snapshot(self) -> Seen:
        return Seen()
