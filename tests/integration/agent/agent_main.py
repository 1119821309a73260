"""Runs the real agent with the fake engine in the place of the embedded one, and short times.

Its own arguments are those of `loradeck-agent`. LD_TEST_SABOTAGE=wrong_file makes it hand the engine another
release's folder, as an agent with a mixed-up path would; router_that_crashes: a router that is to take over ends at
once. LD_TEST_BUILD is which build it is.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from loradeck_agent import reports
from loradeck_agent.cli import main
from loradeck_agent.host import supervisor
from loradeck_agent.host.engine_config import EngineConfig, VllmEngine
from loradeck_agent.jobs import backend
from loradeck_agent.serving import engine_lifecycle, load_steps, proof, reconciler, router_sync
from loradeck_agent.serving.vllm.command import vllm_argv
from loradeck_agent.store import releases
from loradeck_agent.uplink import link, router_files

HERE = Path(__file__).parent


def fake_argv(config: EngineConfig, folder: Path) -> tuple[str, ...]:
    if isinstance(config, VllmEngine):
        return vllm_argv(config, folder)
    return (
        sys.executable,
        str(HERE / "fake_engine.py"),
        "--state",
        str(folder),
        "--base",
        str(config.base),
        "--slots",
        str(config.slots),
    )


def fake_executor_argv(kind: str, spec: Path) -> tuple[str, ...]:
    return (sys.executable, str(HERE / "fake_executor.py"), "--spec", str(spec))


def short_times() -> None:
    supervisor.WATCH_S = 0.1
    supervisor.Backoff.pause = lambda self, failures: min(0.2, 0.05 * failures)  # type: ignore[method-assign]
    proof.REPEAT_S = float(os.environ.get("LD_TEST_REPEAT_S", "60"))
    proof.RETRY_S = proof.PACE_S = 0.2
    load_steps.RETRY_FAULT_S = load_steps.RETRY_REACH_S = 1.0
    reconciler.UNLOAD_RETRY_S = 0.2
    reconciler.SHORT_S = 0.5
    link.LINK_TTL_S = 3.0
    router_files.LOOK_S, router_files.SPREAD_S = 0.2, 0.0
    reports.REPORT_S = 0.2
    router_sync.RETRY_S = 0.2
    router_sync.RESYNC_S = 0.5
    router_sync.LINK_ANYWAY_S = float(os.environ.get("LD_TEST_LINK_ANYWAY_S", "30"))
    backend.GRACE_S = 0.5
    slurm = import_module("loradeck_agent.jobs.slurm")
    slurm.POLL_S = slurm.RETRY_S = 0.2
    import_module("loradeck_agent.cli.restart_router").PATIENCE_S = float(os.environ.get("LD_TEST_PATIENCE_S", "45"))


def sabotage() -> None:
    """An agent that loads the wrong file: the first folder it ever installed, for whatever was asked."""
    right = releases.ReleaseStore.ensure

    async def wrong(self: releases.ReleaseStore, *args: object) -> Path:
        folder = await right(self, *args)  # type: ignore[arg-type]
        others = [p for p in folder.parent.iterdir() if p.is_dir() and p != folder]
        return others[0] if others else folder

    releases.ReleaseStore.ensure = wrong  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    engine_lifecycle.engine_argv = fake_argv
    backend.executor_argv = fake_executor_argv
    short_times()
    if os.environ.get("LD_TEST_SABOTAGE") == "wrong_file":
        sabotage()
    if os.environ.get("LD_TEST_SABOTAGE") == "router_that_crashes":
        router_sync.TAKE_OVER = ("--take-over", "--tls-cert", "/nowhere")
    if (named := os.environ.get("LD_TEST_BUILD")) is not None:
        router_sync.build = lambda: named  # type: ignore[assignment]
    main()
