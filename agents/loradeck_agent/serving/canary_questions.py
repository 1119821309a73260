"""Questions of the hub about canaries: one prompt, answered by an engine with a release and with the others."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from loradeck.schemas.attestation import CanaryItem
from loradeck.schemas.link import CanaryAnswers, CanaryAsk
from loradeck.schemas.manifest import Form
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import AgentError
from loradeck_agent.serving.reconciler import Reconciler
from loradeck_agent.serving.replica import EngineReplica


@dataclass(frozen=True)
class CanaryQuestions:
    """Asks engines for releases that callers may not be served yet. What is not loaded is loaded first."""

    engines: Sequence[EngineReplica]
    reconciler: Reconciler

    async def answers(self, ask: CanaryAsk) -> CanaryAnswers:
        """Each release's greedy answer to the prompt; `trouble` says why there is none of a release."""
        engine = next((engine for engine in self.engines if engine.name == ask.replica), None)
        found = await asyncio.gather(*(self._answer(engine, ref, ask) for ref in ask.releases))
        by_release = {ref.id: answer for ref, answer in zip(ask.releases, found, strict=True)}
        return CanaryAnswers(
            ask=ask.ask,
            items={release: found for release, found in by_release.items() if isinstance(found, CanaryItem)},
            trouble={release: found for release, found in by_release.items() if isinstance(found, str)},
        )

    async def _answer(self, engine: EngineReplica | None, ref: ReleaseRef, ask: CanaryAsk) -> CanaryItem | str:
        if engine is None or not engine.up:
            return f"engine {ask.replica} is not up here"
        try:
            if ref.release.form is Form.ADAPTER and ref.id not in engine.ready:
                await self.reconciler.make_ready(engine, ref, ())
            return await engine.api.canary(ref.engine_name or engine.build.base_name, ask.messages)
        except AgentError as error:
            return error.sentence[:300]
