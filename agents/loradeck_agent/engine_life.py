"""The life of one engine of this node: it is started or adopted, taken over when it answers, given up when it ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from loradeck.schemas.link import AckState
from loradeck_agent.acks import AckBoard, agent_ack
from loradeck_agent.config import EngineConfig
from loradeck_agent.desired import DesiredTable
from loradeck_agent.errors import AgentError, Unreachable
from loradeck_agent.folder import StateFolder
from loradeck_agent.journal import Journal
from loradeck_agent.proof import Prover
from loradeck_agent.reconcile import Reconciler
from loradeck_agent.replica import EngineReplica
from loradeck_agent.supervise import Program, Supervised

log = logging.getLogger(__name__)

ENGINE_READY_S = 900.0


class EngineLife:
    """Runs one engine and tells the others of its ups and downs. `run` goes on for ever.

    Args:
        note_passed: makes durable which releases passed in this lifetime of the engine.
    """

    def __init__(
        self,
        engine: EngineReplica,
        *,
        folder: StateFolder,
        journal: Journal,
        table: DesiredTable,
        reconciler: Reconciler,
        prover: Prover,
        acks: AckBoard,
        note_passed: Callable[[EngineReplica], Awaitable[None]],
    ) -> None:
        self.engine = engine
        self._folder = folder
        self._journal = journal
        self._table = table
        self._reconciler = reconciler
        self._prover = prover
        self._acks = acks
        self._note_passed = note_passed

    async def run(self) -> None:
        name = self.engine.config.name
        folder = self._folder.engine(name)
        folder.mkdir(mode=0o700, exist_ok=True)
        program = Program(
            f"engine {name}",
            engine_argv(self.engine.config, folder),
            self._folder.engine_lock(name),
            folder / "engine.log",
            ENGINE_READY_S,
        )
        await Supervised(program, probe=self._probe, came_up=self._up, went_down=self._down).run()

    async def _probe(self) -> str | None:
        engine = self.engine
        try:
            return (await engine.api.version()).boot if await engine.api.healthy() else None
        except Unreachable:
            return None
        except AgentError as error:
            log.error("engine %s does not say what it is: %s", engine.config.name, error)
            return None

    async def _up(self, boot: str, adopted: bool) -> None:
        """An engine runs: what passed in this very lifetime counts, everything else is loaded and verified anew."""
        engine = self.engine
        async with engine.changing:
            engine.came_up(await engine.api.version())
            listed = await engine.api.models()
            passed_boot, passed = self._journal.passed.get(engine.name, ("", ()))
            ours = {name[-64:]: name for name, root in listed.items() if Path(root).parent == self._folder.releases}
            kept = {release: ours[release] for release in passed if release in ours} if passed_boot == boot else {}
            engine.loaded, engine.ready = dict(kept), set(kept)
            engine.listed_in_router = passed_boot == boot
            await self._note_passed(engine)
            await self._reconciler.tell_router()
            for name in listed.keys() - set(kept.values()):
                await engine.api.unload(name)
        self._reconciler.wake()

    async def _down(self) -> None:
        engine = self.engine
        engine.went_down()
        self._prover.stop_replica(engine.name)
        self._acks.forget(engine.name)
        # The router no longer knows of this replica, so it cannot say that what was flipped and proven on it is void.
        for entry in list(self._table.entries.values()):
            if entry.current is not None and engine.runs(entry.current):
                await self._acks.post(agent_ack(entry, engine.name, AckState.WAITING, "engine_down"))
        await self._reconciler.tell_router()


def engine_argv(config: EngineConfig, folder: Path) -> tuple[str, ...]:
    """How an engine of this kind is started."""
    return (
        *(sys.executable, "-m", "loradeck_agent.engines.embedded"),
        *("--state", str(folder), "--base", str(config.base)),
        *("--slots", str(config.slots), "--threads", str(config.threads)),
    )
