"""The sampler: reads the GPUs through NVML and writes one JSON line a period to its standard output.

A child of the daemon, started by exec, and the only process that loads NVML: a call may block for ever, and
handles pin the driver. It never forks and opens nothing but the library. SIGTERM is taken between calls; it
also ends when nobody reads its lines any more. The lines are `telemetry.sampler_watch.Sample`.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pynvml

PROCESSES_EVERY_S = 5.0
"""The list of processes is the most expensive call: 4.5 ms against microseconds."""

REOPEN_S = 30.0
"""How long until a library that could not be opened is tried again."""

XIDS_KEPT = 8

_THROTTLE = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hw_thermal",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hw_power_brake",
}
"""Reasons that slow a clock down; idling and set clocks are none."""

_STATE_OF = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no_gpu",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "reboot_required",
}

_GONE = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_GPU_NOT_FOUND, pynvml.NVML_ERROR_NOT_FOUND})

T = TypeVar("T")


class _Lost(Exception):
    """The driver reports that this GPU is no longer there."""


@dataclass(eq=False)
class Card:
    """One GPU: its identity, read once, and what is kept between samples."""

    index: int
    uuid: str
    name: str
    handle: Any = None
    xids: deque[int] = field(default_factory=lambda: deque(maxlen=XIDS_KEPT), init=False)
    processes: list[dict[str, int | None]] = field(default_factory=list, init=False)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of `schemas.telemetry.Gpu` that are known without the driver."""
        return {"index": self.index, "uuid": self.uuid, "name": self.name, "xids": list(self.xids)}

    def sample(self, *, processes: bool) -> dict[str, Any]:
        """The fields of `schemas.telemetry.Gpu`; None where the card has none. Raises: _Lost: it fell off the bus."""
        handle = self.handle
        memory = _read(lambda: _memory(handle))
        use = _read(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
        rows = _read(lambda: pynvml.nvmlDeviceGetRemappedRows(handle))
        if processes:
            self.processes = _read(lambda: _processes(handle)) or []
        return self.identity | {
            "utilisation": use.gpu if use is not None else None,
            "memory_used": memory.used if memory is not None else None,
            "memory_total": memory.total if memory is not None else None,
            "power_w": _scaled(_read(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))),
            "power_limit_w": _scaled(_read(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))),
            "temperature_c": _read(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
            "clock_sm_mhz": _read(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            "clock_mem_mhz": _read(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
            "throttle": _read(lambda: _throttle(handle)) or [],
            "ecc_uncorrected": _read(lambda: _ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)),
            "ecc_corrected": _read(lambda: _ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED)),
            "remapped_rows": rows[0] + rows[1] if rows is not None else None,
            "processes": self.processes,
        }


def _read(call: Callable[[], T]) -> T | None:
    """Returns one call's value; None when this driver has no such symbol, or this card no such figure."""
    try:
        return call()
    except pynvml.NVMLError as fault:
        if fault.value in _GONE:
            raise _Lost from fault
        return None


def _memory(handle: Any) -> Any:
    """The second version leaves what the driver reserves out of `used`; older drivers have only the first."""
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError as fault:
        if fault.value not in (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH):
            raise
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _throttle(handle: Any) -> list[str]:
    reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    return [name for bit, name in _THROTTLE.items() if reasons & bit]


def _ecc(handle: Any, kind: int) -> int:
    """Errors since the driver was loaded."""
    count: int = pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, pynvml.NVML_VOLATILE_ECC)
    return count


def _processes(handle: Any) -> list[dict[str, int | None]]:
    """Compute processes that exist: a driver of another age than the binding reports pids that are none."""
    found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return [{"pid": p.pid, "memory_bytes": p.usedGpuMemory} for p in found if os.path.isdir(f"/proc/{p.pid}")]


def _scaled(milliwatts: int | None) -> float | None:
    return milliwatts / 1000 if milliwatts is not None else None


class Sampler:
    """The library, opened or not, and the cards that were ever seen."""

    def __init__(self, inventory: Sequence[Card]) -> None:
        self._cards = {card.uuid: card for card in inventory}
        self._unreachable: list[str] = []  # counted by the driver, and not to be had
        self._open = False
        self._state = "starting"
        self._detail = ""
        self._events: Any = None
        self._next_open = 0.0
        self._next_processes = 0.0

    def line(self) -> dict[str, Any]:
        """Takes one sample. Opens the library first where it is not, at most every REOPEN_S."""
        now = time.monotonic()
        if not self._open and now >= self._next_open:
            self._next_open = now + REOPEN_S
            self._try_open()
        gpus = self._gpus(now) if self._open else [card.identity for card in self._cards.values()]
        return {"state": self._state, "detail": self._detail, "gpus": gpus}

    def close(self) -> None:
        """Closes the library."""
        if self._open:
            pynvml.nvmlShutdown()

    def _try_open(self) -> None:
        try:
            pynvml.nvmlInitWithFlags(0)
        except pynvml.NVMLError as fault:
            self._state = _STATE_OF.get(fault.value, "failed")
            self._detail = f"nvmlInitWithFlags: {fault}"
            return
        self._open = True
        self._take_inventory()
        try:
            self._events = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError as fault:
            print(f"no XID events: {fault}", file=sys.stderr)  # noqa: T201 - the daemon's log
            return
        for card in self._cards.values():
            if card.handle is not None:
                self._register(card)

    def _take_inventory(self) -> None:
        """Identity is read once. A card that was there before and is not now keeps its place, without a handle."""
        for index in range(_count() or 0):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
                name = _text(pynvml.nvmlDeviceGetName(handle))
            except pynvml.NVMLError as fault:
                self._unreachable.append(f"index {index}: {fault}")
                continue
            known = self._cards.get(uuid)
            if known is None:
                self._cards[uuid] = Card(index, uuid, name, handle)
            else:
                known.index, known.handle = index, handle

    def _register(self, card: Card) -> None:
        try:
            pynvml.nvmlDeviceRegisterEvents(card.handle, pynvml.nvmlEventTypeXidCriticalError, self._events)
        except pynvml.NVMLError as fault:
            print(f"no XID events of {card.uuid}: {fault}", file=sys.stderr)  # noqa: T201 - the daemon's log

    def _gpus(self, now: float) -> list[dict[str, Any]]:
        processes = now >= self._next_processes
        if processes:
            self._next_processes = now + PROCESSES_EVERY_S
        self._take_events()
        gpus: list[dict[str, Any]] = []
        lost = list(self._unreachable)
        for card in self._cards.values():
            try:
                if card.handle is None:
                    raise _Lost
                gpus.append(card.sample(processes=processes))
            except _Lost:
                lost.append(card.uuid)
                gpus.append(card.identity)
        count = _count()
        if count is not None and count < len(self._cards) and not lost:
            lost.append(f"{len(self._cards) - count} of {len(self._cards)}")
        self._state = "lost" if lost else "ok" if gpus else "no_gpu"
        self._detail = "lost: " + ", ".join(lost) if lost else ""
        return gpus

    def _take_events(self) -> None:
        """XIDs that came in since the last sample."""
        if self._events is None:
            return
        while True:
            try:
                event = pynvml.nvmlEventSetWait(self._events, 1)
                uuid = _text(pynvml.nvmlDeviceGetUUID(event.device))
            except pynvml.NVMLError:
                return  # NVML_ERROR_TIMEOUT: nothing more; anything else shows in the cards' own calls
            card = self._cards.get(uuid)
            if card is not None and event.eventType & pynvml.nvmlEventTypeXidCriticalError:
                card.xids.append(event.eventData)


def _count() -> int | None:
    try:
        count: int = pynvml.nvmlDeviceGetCount()
        return count
    except pynvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sampler from its command line until SIGTERM. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loradeck_agent.telemetry.sampler", description=__doc__)
    parser.add_argument("--period", type=float, default=1.0, help="seconds from one line to the next")
    parser.add_argument("--inventory", default="[]", help="JSON list of {index, uuid, name} that were there before")
    options = parser.parse_args(argv)
    known = [Card(card["index"], card["uuid"], card["name"]) for card in json.loads(options.inventory)]
    # Taken between calls, by sigtimedwait: a handler would only run there too, and this one cannot be missed.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    sampler = Sampler(known)
    due = time.monotonic()
    try:
        while True:
            sys.stdout.write(json.dumps(sampler.line()) + "\n")
            sys.stdout.flush()
            due = max(due + options.period, time.monotonic())
            if signal.sigtimedwait(stops, max(0.0, due - time.monotonic())) is not None:
                return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes once more as it ends
        return 0
    finally:
        sampler.close()


if __name__ == "__main__":
    sys.exit(main())
