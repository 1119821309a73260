"""What is true of every executor, whatever it does."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.integration.executors.running import DATASET, Bench, Ended

from loradeck.schemas.executor import (
    EXIT_BAD_SPEC,
    EXIT_DIVERGED,
    EXIT_OK,
    EXIT_OUT_OF_MEMORY,
    EXIT_PREEMPTED,
    ExecutorEventType,
)
from loradeck_agent.executors import protocol
from loradeck_agent.executors.protocol import BadSpec, Diverged, Run, staged, write_file


def run(bench: Bench, work: protocol.Work, kind: str = "train") -> Ended:
    folder = bench.write(bench.recipe(), {DATASET: "unused"})
    return Ended(protocol.run(kind, work, ["--spec", str(folder / "spec.json")]), folder)


def raising(error: Exception) -> Callable[[Run], Mapping[str, Any]]:
    def work(_: Run) -> Mapping[str, Any]:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BadSpec("bad_data", "row 7"), EXIT_BAD_SPEC, "bad_data"),
        (Diverged("loss nan"), EXIT_DIVERGED, "diverged"),
        (MemoryError(), EXIT_OUT_OF_MEMORY, "out_of_memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            EXIT_OUT_OF_MEMORY,
            "out_of_memory",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "disk_full"),
        (ValueError("anything else"), 1, "executor_failed"),
    ],
)
def test_an_error_has_its_exit_status_its_code_and_its_traceback(
    bench: Bench, error: Exception, status: int, code: str
) -> None:
    ended = run(bench, raising(error))
    assert ended.status == status
    assert [event.type for event in ended.events] == [ExecutorEventType.STARTED, ExecutorEventType.FAILED]
    assert ended.last.code == code
    assert "Traceback" in ended.error
    assert type(error).__name__ in ended.error


def test_success_is_a_terminal_event_written_last(bench: Bench) -> None:
    ended = run(bench, lambda current: {"answer": 42})
    assert ended.status == EXIT_OK
    assert (ended.last.type, ended.last.data) == (ExecutorEventType.FINISHED, {"answer": 42})


def test_sigterm_is_honoured_at_the_next_check_and_the_handler_is_put_back(bench: Bench) -> None:
    before = signal.getsignal(signal.SIGTERM)
    reached = []

    def work(current: Run) -> Mapping[str, Any]:
        current.check()
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("the step goes on")
        current.check()
        reached.append("never")
        return {}

    ended = run(bench, work)
    assert ended.status == EXIT_PREEMPTED
    assert ended.last.type == ExecutorEventType.PREEMPTED
    assert reached == ["the step goes on"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_silent_loop_sends_a_heartbeat_with_the_step_it_is_at(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEARTBEAT_S", -1.0)

    def work(current: Run) -> Mapping[str, Any]:
        current.progress(3, 9, loss=1.0)
        current.check()
        return {}

    ended = run(bench, work)
    (beat,) = ended.of_type(ExecutorEventType.HEARTBEAT)
    assert (beat.step, beat.of) == (3, 9)


def test_events_are_readable_while_the_run_goes_on(bench: Bench) -> None:
    seen: list[int] = []

    def work(current: Run) -> Mapping[str, Any]:
        for step in range(3):
            current.progress(step, 3)
            seen.append(len(Path(current.spec.events).read_bytes().splitlines()))
        return {}

    run(bench, work)
    assert seen == [2, 3, 4]


def test_a_spec_of_another_kind_is_refused(bench: Bench) -> None:
    ended = run(bench, raising(AssertionError("never called")), kind="evaluate")
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_spec")


def test_a_spec_that_cannot_be_read_is_65_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"v": 1, "unknown": true}')
    for name in ("spec.json", "absent.json"):
        assert protocol.run("train", raising(AssertionError()), ["--spec", str(tmp_path / name)]) == EXIT_BAD_SPEC
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_a_publication_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged(out) as staging:
        write_file(staging / "f", b"1")

    def fails() -> None:
        with staged(out) as staging:
            write_file(staging / "f", b"2")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fails()
    assert (out / "f").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
