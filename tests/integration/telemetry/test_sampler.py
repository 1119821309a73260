"""The sampler child against a C library that stands for NVML, in each of its states."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynvml
import pytest
from tests.integration.telemetry.conftest import Stub

from loradeck.schemas.telemetry import GpuProcess, MigInstance, NvLink, NvmlState
from loradeck_agent.telemetry.sampler import GROWN_WITHIN, Links
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
        "mig": False,
    }
    assert second.throttle == ("sw_power_cap", "hw_thermal")
    assert (second.ecc_uncorrected, second.ecc_corrected) == (None, None)  # a card without ECC: no made-up zero


def test_a_symbol_that_an_old_driver_lacks_makes_its_field_unknown_and_no_other(sampler: Sampler, stub: Stub) -> None:
    stub.says(f"pids={os.getpid()}")
    with running(sampler("-DOLD_DRIVER")) as lines:
        sample = lines.next()
    assert sample.state is NvmlState.OK
    first = sample.gpus[0]
    assert (first.power_limit_w, first.remapped_rows, first.throttle) == (None, None, ())
    assert (first.memory_used, first.power_w, first.temperature_c) == (21 << 30, 312.5, 61)
    assert (first.nvlink, first.mig, first.instances) == (None, None, None)
    assert first.processes == (GpuProcess(pid=os.getpid(), memory_bytes=5 << 30),)


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


def links(sample: Sample) -> NvLink:
    found = sample.gpus[0].nvlink
    assert found is not None
    return found


def test_links_are_counted_with_how_many_are_up_and_how_fast_and_errors_are_not_known_by_one_read(
    sampler: Sampler, stub: Stub
) -> None:
    stub.says("links=4")
    with running(sampler()) as lines:
        sample = lines.next()
    assert links(sample) == NvLink(links=4, up=4, down=0, speed_mbps=26562, errors={})
    assert (sample.gpus[1].nvlink, sample.gpus[1].mig) == (None, None), "it says nothing of any: no made-up zero"


def test_a_link_that_is_down_beside_others_is_down_from_the_first_read_on(sampler: Sampler, stub: Stub) -> None:
    stub.says("links=4 down=2")
    with running(sampler()) as lines:
        found = links(lines.next())
    assert (found.links, found.up, found.down) == (4, 3, 1)


def test_links_none_of_which_ever_was_up_are_not_down_and_those_that_all_go_down_are(
    sampler: Sampler, stub: Stub
) -> None:
    stub.says("links=4 dark")
    with running(sampler()) as lines:
        assert links(lines.next()) == NvLink(links=4, up=0, down=0), "it may have no bridge to another card"
        stub.says("links=4")
        lines.until(lambda sample: links(sample).up == 4)
        stub.says("links=4 dark")
        assert links(lines.until(lambda sample: links(sample).up == 0)).down == 4


def test_errors_of_links_are_what_their_counters_grew_by_and_a_reset_counts_for_nothing(
    sampler: Sampler, stub: Stub
) -> None:
    stub.says("links=2 crc=70")
    with running(sampler()) as lines:
        assert links(lines.next()).errors == {}
        sample = lines.until(lambda sample: links(sample).errors != {})
        assert links(sample).errors == {"replay": 0, "recovery": 0, "CRC": 0}
        stub.says("links=2 crc=75")
        lines.until(lambda sample: links(sample).errors["CRC"] == 5)
        stub.says("links=2 crc=1 down=1")
        assert links(lines.until(lambda sample: links(sample).down == 1)).errors["CRC"] == 5
        stub.says("links=2 crc=4")
        assert links(lines.until(lambda sample: links(sample).down == 0)).errors["CRC"] == 8


def test_errors_of_more_than_five_minutes_ago_are_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = iter([3, 4, *[4] * GROWN_WITHIN])

    def state(handle: object, link: int) -> int:
        if link:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return 1

    def counter(handle: object, link: int, number: int) -> int:
        if number != pynvml.NVML_NVLINK_ERROR_DL_REPLAY:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return next(counted)

    def fields(handle: object, ids: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetNvLinkState", state)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetNvLinkErrorCounter", counter)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", fields)
    kept = Links()
    said = [kept.read(None) for _ in range(GROWN_WITHIN + 2)]
    assert [one and one["errors"] for one in said] == [{}, *[{"replay": 1}] * GROWN_WITHIN, {"replay": 0}]
    assert said[-1] == {"links": 1, "up": 1, "down": 0, "speed_mbps": None, "errors": {"replay": 0}}


def test_a_link_that_is_not_said_any_more_is_not_known_and_counters_that_may_not_be_read_neither(
    sampler: Sampler, stub: Stub
) -> None:
    stub.says("links=4 mute")
    with running(sampler()) as lines:
        assert links(lines.next()) == NvLink(links=4, up=4, down=0)
        stub.says("links=3")
        found = links(lines.until(lambda sample: links(sample).up == 3))
    assert (found.links, found.down) == (4, 0)


def test_a_divided_gpu_names_its_instances_and_its_use_as_a_whole_is_not_known(sampler: Sampler, stub: Stub) -> None:
    stub.says("mig")
    with running(sampler()) as lines:
        first, second = lines.next().gpus
    assert (first.mig, first.utilisation, second.utilisation) == (True, None, 41)
    assert first.instances == (
        MigInstance(place="0/7/0", uuid="MIG-stub-70", profile="3g.40gb", memory_used=3 << 30, memory_total=40 << 30),
        MigInstance(place="0/9/0", uuid="MIG-stub-90", profile="3g.40gb"),  # its memory may not be read
    )
    assert (second.mig, second.instances) == (None, None)


def test_instances_that_may_not_be_looked_at_are_not_known(sampler: Sampler, stub: Stub) -> None:
    stub.says("mig blind")
    with running(sampler()) as lines:
        sample = lines.next()
    assert (sample.state, sample.gpus[0].mig, sample.gpus[0].instances) == (NvmlState.OK, True, None)


def test_processes_of_a_divided_gpu_are_named_with_their_instance_whoever_lists_them(
    sampler: Sampler, stub: Stub
) -> None:
    me, parent = os.getpid(), os.getppid()
    stub.says(f"mig pids={parent} inside={me}")
    with running(sampler()) as lines:
        assert lines.next().gpus[0].processes == (
            GpuProcess(pid=parent, memory_bytes=5 << 30, instance="0/9/0"),
            GpuProcess(pid=me, memory_bytes=3 << 30, instance="0/7/0"),
        )
        stub.says(f"mig private inside={me}")
        alone = (GpuProcess(pid=me, memory_bytes=3 << 30, instance="0/7/0"),)
        lines.until(lambda sample: sample.gpus[0].processes == alone)


def test_mig_that_is_switched_off_again_leaves_a_whole_gpu(sampler: Sampler, stub: Stub) -> None:
    stub.says("mig")
    with running(sampler()) as lines:
        assert lines.next().gpus[0].mig is True
        stub.says("")
        sample = lines.until(lambda sample: sample.gpus[0].mig is False)
    assert (sample.gpus[0].instances, sample.gpus[0].utilisation) == (None, 40)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_when_asked(sampler: Sampler, number: signal.Signals) -> None:
    with running(sampler()) as lines:
        lines.next()
        lines.process.send_signal(number)
        assert lines.process.wait(60) == 0


def test_it_leaves_when_nobody_reads_its_lines(sampler: Sampler, capfd: pytest.CaptureFixture[str]) -> None:
    with running(sampler()) as lines:
        lines.next()
        assert lines.process.stdout is not None
        lines.process.stdout.close()
        assert lines.process.wait(60) == 0
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
        assert lines.process.wait(60) == 0


def test_its_lines_are_strict_json(sampler: Sampler) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    with running(sampler()) as lines:
        assert lines.process.stdout is not None
        json.loads(lines.process.stdout.readline(), parse_constant=refuse)
