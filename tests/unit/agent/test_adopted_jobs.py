"""An agent that starts again follows what an earlier one began, also where the engines are not as they were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.integration.agent.artifacts import make_adapter

from loradeck.schemas.jobs import EvaluateSpec, TrainSpec
from loradeck.schemas.training import Distillation
from loradeck_agent.host.errors import AgentError
from loradeck_agent.jobs import node_jobs as module
from loradeck_agent.jobs.node_jobs import Jobs
from loradeck_agent.serving.reconciler import Reconciler

BASE, TEACHER = "b" * 64, "c" * 64


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bases that engines of the node are up with; empty at first."""
    found: list[str] = []

    async def up_with_base(engines: object, base: str) -> list[str]:
        if base not in found:
            raise AgentError("no_replica", "no engine of this node runs the release's base")
        return [base]

    engine, teacher = SimpleNamespace(socket="ask.sock"), SimpleNamespace(socket="teacher.sock")
    told = SimpleNamespace(engine=engine, teacher=teacher, doors={})
    monkeypatch.setattr(module, "ExecutorSpec", SimpleNamespace(model_validate_json=lambda text: told))
    monkeypatch.setattr(module, "base_of", lambda engines, base, own: None)
    monkeypatch.setattr(module, "up_with_base", up_with_base)
    monkeypatch.setattr(module, "REOPEN_S", 0)
    monkeypatch.setattr(module, "_door", lambda engine, socket: f"{engine[0]} at {socket}")
    return found


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[tuple[str, str]]:
    """Which engine was opened on which socket."""
    found: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    @asynccontextmanager
    async def listening(engine: str, socket: str) -> AsyncIterator[None]:
        found.put_nowait((engine, socket))
        yield

    def relay(engine: str, *_: object) -> Any:
        return SimpleNamespace(listening=lambda socket, user: listening(engine, socket))

    monkeypatch.setattr(module, "EngineRelay", relay)
    return found


def asks(which: str, *, started: bool) -> Any:
    distillation = Distillation(teacher=TEACHER, licence="MIT", way="top")
    spec: Any = {
        "train": TrainSpec.model_construct(base=BASE),
        "evaluate": EvaluateSpec.model_construct(offline=False),
        "distil": TrainSpec.model_construct(base=BASE, tenant="acme", method="distil", distillation=distillation),
    }[which]
    ref = SimpleNamespace(release=SimpleNamespace(served_base=BASE))
    jobs = Jobs.__new__(Jobs)
    jobs.folder = SimpleNamespace(door=lambda attempt, engine: f"{attempt} {engine}")  # type: ignore[assignment]
    jobs.engines, jobs.reconciler = (object(),), None  # type: ignore[assignment]
    jobs.launcher = SimpleNamespace(user=None, bases={})  # type: ignore[assignment]
    job: Any = SimpleNamespace(id="j1", release=ref, spec=spec, canaries=(), asked=())
    path = SimpleNamespace(name="j1-1")
    executor: Any = SimpleNamespace(
        started=started, folder=SimpleNamespace(path=path, spec=SimpleNamespace(read_bytes=bytes))
    )
    return jobs._doors(executor, jobs._asked(job, executor))


@pytest.mark.parametrize(
    ("which", "base", "socket"),
    [("train", BASE, "ask.sock"), ("evaluate", BASE, "ask.sock"), ("distil", TEACHER, "teacher.sock")],
)
async def test_a_job_that_was_begun_goes_on_while_its_engine_is_down_and_may_ask_it_once_it_is_up(
    up: list[str],
    opened: asyncio.Queue[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
    which: str,
    base: str,
    socket: str,
) -> None:
    async with asks(which, started=True) as doors:
        assert doors == {}
        for _ in range(9):
            await asyncio.sleep(0)
        assert opened.empty()
        assert len(caplog.records) == 1 + (which == "distil"), "a training may go on for days"
        up.append(base)
        assert await asyncio.wait_for(opened.get(), 60) == (base, Path(socket))


@pytest.mark.parametrize("which", ["train", "evaluate", "distil"])
async def test_a_job_does_not_begin_while_the_engine_that_it_asks_is_down(up: list[str], which: str) -> None:
    with pytest.raises(AgentError, match="no engine of this node"):
        async with asks(which, started=False):
            pass


async def test_a_job_that_begins_gets_the_door_of_its_engine(
    up: list[str], opened: asyncio.Queue[tuple[str, str]]
) -> None:
    up += (BASE, TEACHER)
    async with asks("distil", started=False) as doors:
        assert doors == {"engine": "b at j1-1 engine", "teacher": "c at j1-1 teacher"}
    assert [opened.get_nowait() for _ in doors] == [(BASE, "j1-1 engine"), (TEACHER, "j1-1 teacher")]


def test_a_release_that_two_jobs_ask_is_kept_until_the_second_has_ended() -> None:
    reconciler = Reconciler.__new__(Reconciler)
    reconciler._evaluated, ref = [], make_adapter(BASE, 1).ref
    with reconciler.evaluating(ref):
        with reconciler.evaluating(ref):
            pass
        assert reconciler._evaluated == [ref]
    assert not reconciler._evaluated
