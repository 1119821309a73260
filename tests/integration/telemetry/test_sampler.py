"""The sampler child against a C library that stands for NVML, in each of its states."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.integration.telemetry.conftest import Stub

from loradeck.schemas.telemetry import GpuProcess, NvmlState
from loradeck_agent.telemetry.sampler_watch import Sample

Sampler = Callable[..., list[str]]


class _Lines:
    """A running sampler, line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def next(self) -> Sample:
        assert self.process.stdout is not None
        return Sample.model_validate_json(self.process.stdout.readline())

    def until(self, wanted: Callable[[Sample], bool]) -> Sample:
        for _ in range(500):
            sample = self.next()
            if wanted(sample):
                return sample
        raise AssertionError(f"it did not come about: {sample}")


@contextmanager
def running(command: list[str], *arguments: str) -> Iterator[_Lines]:
    process = subprocess.Popen([*command, "--period", "0.02", *arguments], stdout=subprocess.PIPE)
    try:
        yield _Lines(process)
    finally:
        process.kill()
        process.communicate()


def test_two_gpus_with_every_field(sampler: Sampler, stub: Stub) -> None:
    with running(sampler()) as lines:
        sample = lines.next()
    assert sample.state is NvmlState.OK
    first, second = sample.gpus
    assert first.model_dump(exclude={"processes"}) == {
        "index": 0,
        "uuid": "GPU-stub-0",
        "name": "Stub 80GB",
        "utilisation": 40,
        "memory_used": 20 << 30,
        "memory_total": 80 << 30,
        "power_w": 312.5,
        "power_limit_w": 400.0,
        "temperature_c": 61,
        "clock_sm_mhz": 1410,
        "clock_mem_mhz": 1593,
        "throttle": (),
        "ecc_uncorrected": 2,
        "ecc_corrected": 7,
        "remapped_rows": 3,
        "xids": (),
    }
    assert second.throttle == ("sw_power_cap", "hw_thermal")
    assert (second.ecc_uncorrected, second.ecc_corrected) == (None, None)  # a card without ECC: no made-up zero


def test_a_symbol_that_an_old_driver_lacks_makes_its_field_unknown_and_no_other(sampler: Sampler) -> None:
    with running(sampler("-DOLD_DRIVER")) as lines:
        sample = lines.next()
    assert sample.state is NvmlState.OK
    first = sample.gpus[0]
    assert (first.power_limit_w, first.remapped_rows, first.throttle) == (None, None, ())
    assert (first.memory_used, first.power_w, first.temperature_c) == (21 << 30, 312.5, 61)


def test_without_the_library_there_is_no_gpu(sampler: Sampler) -> None:
    with running(sampler(present=False)) as lines:
        sample = lines.next()
    assert (sample.state, sample.gpus) == (NvmlState.NO_GPU, ())


def test_a_library_of_another_driver_version_asks_for_a_reboot(sampler: Sampler, stub: Stub) -> None:
    stub.says("rc18")
    with running(sampler()) as lines:
        assert lines.next().state is NvmlState.REBOOT_REQUIRED


def test_a_gpu_that_falls_off_the_bus_is_lost_and_keeps_its_place_without_figures(sampler: Sampler, stub: Stub) -> None:
    with running(sampler()) as lines:
        assert lines.next().state is NvmlState.OK
        stub.says("lost")
        sample = lines.until(lambda sample: sample.state is NvmlState.LOST)
    assert "GPU-stub-1" in sample.detail
    first, second = sample.gpus
    assert (first.utilisation, first.power_w) == (40, 312.5)
    assert (second.uuid, second.utilisation, second.memory_total) == ("GPU-stub-1", None, None)


def test_a_gpu_that_vanishes_without_a_word_is_noticed_by_the_count(sampler: Sampler, stub: Stub) -> None:
    with running(sampler()) as lines:
        assert lines.next().state is NvmlState.OK
        stub.says("gone")
        assert lines.until(lambda sample: sample.state is NvmlState.LOST).detail == "lost: 1 of 2"


def test_a_gpu_that_was_in_the_last_inventory_and_is_not_counted_now_is_lost(sampler: Sampler, stub: Stub) -> None:
    stub.says("gone")
    before = [{"index": i, "uuid": f"GPU-stub-{i}", "name": "Stub 80GB"} for i in range(2)]
    with running(sampler(), "--inventory", json.dumps(before)) as lines:
        sample = lines.next()
    assert sample.state is NvmlState.LOST
    assert [(gpu.uuid, gpu.utilisation) for gpu in sample.gpus] == [("GPU-stub-0", 40), ("GPU-stub-1", None)]


def test_xids_are_taken_as_events_and_the_last_eight_kept(sampler: Sampler, stub: Stub) -> None:
    with running(sampler()) as lines:
        for xid in range(70, 80):
            stub.says(f"xid={xid}")
            sample = lines.until(lambda sample, xid=xid: xid in sample.gpus[1].xids)  # type: ignore[misc]
    assert sample.gpus[0].xids == ()
    assert sample.gpus[1].xids == tuple(range(72, 80))


def test_processes_that_do_not_exist_are_not_believed(sampler: Sampler, stub: Stub) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    stub.says(f"pids={os.getpid()},{ended.pid}")
    with running(sampler()) as lines:
        sample = lines.next()
    assert sample.gpus[0].processes == (GpuProcess(pid=os.getpid(), memory_bytes=5 << 30),)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_when_asked(sampler: Sampler, number: signal.Signals) -> None:
    with running(sampler()) as lines:
        lines.next()
        lines.process.send_signal(number)
        assert lines.process.wait(20) == 0


def test_it_leaves_when_nobody_reads_its_lines(sampler: Sampler, capfd: pytest.CaptureFixture[str]) -> None:
    with running(sampler()) as lines:
        lines.next()
        assert lines.process.stdout is not None
        lines.process.stdout.close()
        assert lines.process.wait(20) == 0
        lines.process.stdout = None
    assert capfd.readouterr().err == ""


def test_a_sampler_stuck_in_a_call_leaves_as_soon_as_the_call_returns(sampler: Sampler, stub: Stub) -> None:
    with running(sampler()) as lines:
        lines.next()
        stub.says("slow")
        while not stub.holds_a_caller():
            assert lines.process.poll() is None
        lines.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            lines.process.wait(0.3)
        stub.says("")
        assert lines.process.wait(20) == 0


def test_its_lines_are_strict_json(sampler: Sampler) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    with running(sampler()) as lines:
        assert lines.process.stdout is not None
        json.loads(lines.process.stdout.readline(), parse_constant=refuse)
