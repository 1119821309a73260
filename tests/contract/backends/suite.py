"""What every backend of jobs does, whichever runs the processes: the tests that `tests/services/test_backends.py` runs.

Results and checkpoints are no part of it: they lie in folders, and the agent brings them to the hub.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from pathlib import Path

import pytest
from tests.fleets.waiting import until

from loradeck.schemas.executor import (
    EXIT_BAD_SPEC,
    EXIT_OK,
    EXIT_PREEMPTED,
    ExecutorEvent,
    ExecutorEventType,
    ExecutorSpec,
)
from loradeck.schemas.jobs import EvaluateSpec, JobAssignment
from loradeck_agent.jobs import backend as backends
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.backend import Standing, Workload
from loradeck_agent.jobs.executor import Executor

STEPPER = Path(__file__).parent / "stepper.py"


class Place(ABC):
    """Where a backend runs things: how a test makes its workloads and troubles it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def workload(self, folder: ExecutorFolder, attempt: Attempt) -> Workload:
        """The workload of an attempt."""

    @abstractmethod
    async def take_away(self, run: Executor) -> Executor:
        """Takes its place away from what runs, as for something more urgent. Returns what goes on."""

    @abstractmethod
    async def unreachable(self, run: Executor) -> None:
        """For a moment nobody can say how it stands, where that can be."""

    @abstractmethod
    def started(self, run: Executor) -> int:
        """How often the attempt was started or submitted."""

    async def begin(self, kind: str, attempt: int = 1) -> Executor:
        """Starts the stepper as this kind."""
        job = JobAssignment(
            id="j1",
            lease=attempt,
            attempt=attempt,
            spec=EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64, route=kind),
        )
        folder = ExecutorFolder(self.root / f"{self.root.name}-{attempt}")
        run = Executor(self.workload(folder, Attempt(job=job)))
        folder.write(run.attempt)
        spec = ExecutorSpec(
            run="j1", attempt=attempt, spec=job.spec, base="/", base_digest="d" * 64, inputs={}, out=str(folder.out),
            events=str(folder.events), error=str(folder.error), checkpoints=str(self.root),
        )  # fmt: skip
        await run.start("evaluate", spec)
        return run

    def again(self, run: Executor) -> Executor:
        """What an agent that starts anew makes of the attempt."""
        attempt = run.folder.read()
        assert attempt is not None
        return Executor(self.workload(ExecutorFolder(run.folder.path), attempt))


@pytest.fixture(autouse=True)
def stepping(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = (sys.executable, str(STEPPER), "--spec")
    monkeypatch.setattr(backends, "executor_argv", lambda kind, spec: (*argv, str(spec)))


async def ended(run: Executor) -> Standing:
    await until(lambda: not run.workload.look().alive, f"it does not end: {run.workload.look()}")
    return run.workload.look()


def events(run: Executor) -> list[ExecutorEvent]:
    if not run.folder.events.exists():
        return []
    return [ExecutorEvent.model_validate_json(line) for line in run.folder.events.read_bytes().split(b"\n") if line]


def steps(run: Executor) -> list[int | None]:
    return [event.step for event in events(run) if event.type is ExecutorEventType.PROGRESS]


async def stepping_now(run: Executor) -> None:
    await until(lambda: steps(run), f"no step is taken: {run.workload.look()} {run.folder.last_lines()}")


async def test_what_is_submitted_runs_once_and_its_events_log_and_status_are_known(place: Place) -> None:
    run = await place.begin("good")
    assert (await ended(run)).status == EXIT_OK
    assert [event.seq for event in events(run)] == list(range(5))
    assert (steps(run), events(run)[-1].type) == ([1, 2, 3], ExecutorEventType.FINISHED)
    assert run.folder.log.read_text() == "this is good\n"
    assert run.folder.log.stat().st_mode & 0o777 == 0o600
    assert place.started(run) == 1


async def test_the_status_of_one_that_ended_badly_is_its_own(place: Place) -> None:
    run = await place.begin("bad")
    assert (await ended(run)).status == EXIT_BAD_SPEC
    assert events(run)[-1].code == "bad_spec"


async def test_one_that_is_asked_to_stop_ends_after_the_step_in_hand(place: Place) -> None:
    run = await place.begin("waits")
    await stepping_now(run)
    await run.workload.end()
    assert (await ended(run)).status == EXIT_PREEMPTED
    assert events(run)[-1].type is ExecutorEventType.PREEMPTED


async def test_one_that_will_not_stop_is_killed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await place.begin("stubborn")
    await stepping_now(run)
    monkeypatch.setattr(backends, "GRACE_S", 0.2)
    await run.workload.end()
    assert (await ended(run)).status in (-9, EXIT_PREEMPTED), "a scheduler says that it was taken away"


async def test_an_agent_that_starts_anew_finds_what_runs_by_its_folder(place: Place) -> None:
    run = await place.begin("waits")
    await stepping_now(run)
    found = place.again(run)
    assert found.started
    assert found.workload.look().alive
    (run.folder.path / "go").touch()
    assert (await ended(found)).status in (EXIT_OK, None)
    assert events(run)[-1].type is ExecutorEventType.FINISHED
    assert place.started(run) == 1


async def test_what_loses_its_place_goes_on_after_its_last_step_and_no_number_of_an_event_comes_twice(
    place: Place,
) -> None:
    run = await place.begin("waits")
    await stepping_now(run)
    on = await place.take_away(run)
    await until(lambda: any(e.message.startswith("goes on after step") for e in events(on)), "nothing goes on")
    (on.folder.path / "go").touch()
    assert (await ended(on)).status == EXIT_OK
    assert [event.seq for event in events(on)] == list(range(len(events(on))))
    taken = [*steps(run), *(steps(on) if on.folder.path != run.folder.path else ())]
    assert taken == list(range(1, len(taken) + 1)), "no step is lost, or done twice"


async def test_what_nobody_can_ask_about_counts_as_running_and_is_not_started_again(place: Place) -> None:
    run = await place.begin("waits")
    await stepping_now(run)
    await place.unreachable(run)
    assert run.workload.look().alive
    (run.folder.path / "go").touch()
    assert (await ended(run)).status == EXIT_OK
    assert place.started(run) == 1
