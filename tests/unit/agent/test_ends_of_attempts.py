"""What is left of an attempt whose end falls between two steps: no process that nobody follows, and no GPU."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.jobs import EvaluateSpec, JobAssignment, PrepareSpec
from loradeck.schemas.link import JobEvent, JobLog
from loradeck_agent.host.errors import AgentError
from loradeck_agent.jobs import results as ends
from loradeck_agent.jobs.backend import Command, Standing, Workload
from loradeck_agent.jobs.node_jobs import Jobs
from loradeck_agent.jobs.room import Room


class Processes(Workload):
    """Processes that run until they are asked to end, and `may_end`."""

    alive = begun = False
    may_end = True

    @property
    def started(self) -> bool:
        return self.begun

    async def submit(self, command: Command) -> None:
        self.alive = self.begun = True

    def look(self) -> Standing:
        return Standing(self.alive)

    async def ask(self) -> None:
        self.alive = self.alive and not self.may_end

    async def kill(self) -> None:
        self.alive = False


class Parts:
    """The jobs of a node, with processes that are none; `go` lets launches come to their end."""

    def __init__(self, folder: Path) -> None:
        self.sent, self.made, self.go = asyncio.Queue[JobEvent](), list[Processes](), asyncio.Event()
        self.room, parts = Room(), self

        async def send(message: JobEvent | JobLog) -> bool:
            if isinstance(message, JobEvent):
                self.sent.put_nowait(message)
            return True

        def backend(*of: Any) -> Processes:
            self.made.append(Processes(*of))
            return self.made[-1]

        class Launcher:
            user, bases = None, dict[str, Path]()

            async def launch(self, job: JobAssignment, executor: Any, *_: Any) -> None:
                await parts.go.wait()
                await executor.workload.submit(Command("evaluate", folder))

        async def outcome(job: JobAssignment, *_: Any) -> Any:
            raise AgentError("ended", "the process has ended")

        self.jobs = Jobs(
            folder=cast(Any, SimpleNamespace(jobs=folder)),
            **dict.fromkeys(("checkpoints", "reconciler", "schedule"), cast(Any, None)),
            engines=(),
            launcher=cast(Any, Launcher()),
            results=cast(Any, SimpleNamespace(outcome=outcome)),
            send=send,
            backend=backend,
            room=self.room,
        )

    async def end(self) -> tuple[int, str | None]:
        """The lease and the code of the end that the hub is told next."""
        told = await asyncio.wait_for(self.sent.get(), 60)
        assert told.event.type in (ExecutorEventType.FAILED, ExecutorEventType.PREEMPTED)
        return told.lease, told.event.code


@pytest.fixture
async def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def job(lease: int = 1) -> JobAssignment:
    spec = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)
    return JobAssignment(id="j1", lease=lease, attempt=lease, spec=spec)


async def steps() -> None:
    for _ in range(9):
        await asyncio.sleep(0)


async def test_an_attempt_that_begins_in_the_moment_of_a_drain_is_stopped_before_the_hub_gives_it_away(
    parts: Parts,
) -> None:
    parts.jobs.assign(job())
    await steps()
    parts.go.set()
    parts.jobs.preempt()
    assert await parts.end() == (1, "ended")
    assert (parts.made[0].begun, parts.made[0].alive) == (True, False)


@pytest.mark.parametrize("error", [AgentError("disk_full", "the disk is full"), ValueError("a line of a stranger")])
async def test_an_attempt_that_the_agent_cannot_follow_is_ended_and_leaves_its_place(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def breaks(*_: Any) -> None:
        raise error

    monkeypatch.setattr(parts.jobs, "_tail", breaks)
    parts.go.set()
    parts.jobs.assign(job())
    assert (await parts.end())[0] == 1
    assert not parts.made[0].alive
    assert not parts.room._held


async def test_a_cancel_that_comes_while_the_attempt_before_ends_is_told_and_lets_that_one_end(parts: Parts) -> None:
    parts.go.set()
    parts.jobs.assign(job(1))
    await steps()
    parts.made[0].may_end = False
    parts.jobs.assign(job(2))
    await steps()
    parts.jobs.cancel("j1", 2)
    assert await parts.end() == (2, "cancelled")
    assert parts.room._held, "its processes run"
    await parts.made[0].kill()
    await asyncio.wait_for(asyncio.gather(*parts.jobs._asides), 60)
    assert not parts.room._held
    assert parts.made[0].attempt.ended, "the next agent does not follow it"


async def test_a_prepare_under_a_newer_lease_begins_when_the_one_before_has_ended(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = asyncio.Queue[tuple[str, int]]()

    async def prepares(job: JobAssignment) -> None:
        seen.put_nowait(("begins", job.lease))
        try:
            await asyncio.Event().wait()
        finally:
            await steps()
            seen.put_nowait(("ends", job.lease))

    monkeypatch.setattr(parts.jobs, "_prepare", prepares)
    spec = PrepareSpec(tenant="acme", route="production", release="a" * 64, expected_generation=0)
    for lease in (1, 2):
        parts.jobs.assign(JobAssignment(id="p1", lease=lease, attempt=lease, spec=spec))
        await steps()
    found = [await asyncio.wait_for(seen.get(), 60) for _ in range(3)]
    assert found == [("begins", 1), ("ends", 1), ("begins", 2)]
    parts.jobs._running["p1"].task.cancel()
    assert await asyncio.wait_for(seen.get(), 60) == ("ends", 2)


async def test_a_training_that_ends_while_the_agent_hashes_its_base_is_verified_once_that_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An agent that was started again links, and follows what has ended meanwhile, before it knows jobs' bases."""
    bases, hashed = dict[str, Path](), asyncio.Event()

    async def register(manifest: object) -> SimpleNamespace:
        return SimpleNamespace(digest="d" * 64, version=1, release="e" * 64)

    async def upload(folder: Path, files: object) -> None: ...

    found = SimpleNamespace(base="b" * 64, files=())
    monkeypatch.setattr(ends, "read_json", lambda path: {})
    monkeypatch.setattr(ends, "AdapterManifest", SimpleNamespace(model_validate=lambda document: found))
    monkeypatch.setattr(ends, "_fits", lambda manifest, spec: None)
    monkeypatch.setattr(ends, "verify_adapter", lambda *of, **more: None)
    results = ends.Results(cast(Any, SimpleNamespace(register=register, upload=upload)), (), tmp_path, bases, hashed)
    ending = asyncio.create_task(results._trained(tmp_path, cast(Any, None)))
    for _ in range(5):
        await asyncio.sleep(0)
    bases["b" * 64] = tmp_path
    hashed.set()
    assert (await ending)["version"] == 1
