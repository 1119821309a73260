"""An agent that starts again follows what an earlier one began, also where the engines are not as they were."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from loradeck.schemas.jobs import EvaluateSpec, TrainSpec
from loradeck_agent.host.errors import AgentError
from loradeck_agent.jobs import node_jobs as module
from loradeck_agent.jobs.node_jobs import Jobs


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("spec", [TrainSpec, EvaluateSpec])
async def test_a_training_goes_on_while_the_engine_that_it_asked_is_down(
    monkeypatch: pytest.MonkeyPatch, spec: Any, started: bool
) -> None:
    asked = SimpleNamespace(model_validate_json=lambda text: SimpleNamespace(engine="gpu-01"))
    monkeypatch.setattr(module, "ExecutorSpec", asked)
    monkeypatch.setattr(module, "base_of", lambda engines, base: None)
    ref = SimpleNamespace(release=SimpleNamespace(served_base="b" * 64))
    job: Any = SimpleNamespace(id="j1", release=ref, spec=spec.model_construct(base="b" * 64, offline=False))
    folder = SimpleNamespace(spec=SimpleNamespace(read_bytes=bytes))
    jobs: Any = SimpleNamespace(engines=())
    executor: Any = SimpleNamespace(started=started, folder=folder)
    if started and spec is TrainSpec:
        async with Jobs._asked(jobs, job, executor) as door:
            assert door is None
    else:
        with pytest.raises(AgentError, match="no engine of this node"):
            async with Jobs._asked(jobs, job, executor):
                pass
