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

PROCESSES_EVERY = 5
"""One sample in so many lists processes, the most expensive call (4.5 ms against microseconds), and MIG instances."""

LINKS_EVERY, GROWN_WITHIN = 15, 20
"""One sample in so many reads the NVLinks, by several calls for each; errors are of so many of these: five minutes."""

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

_GONE = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_GPU_NOT_FOUND})

_ERRORS = {
    pynvml.NVML_NVLINK_ERROR_DL_REPLAY: "replay",
    pynvml.NVML_NVLINK_ERROR_DL_RECOVERY: "recovery",
    pynvml.NVML_NVLINK_ERROR_DL_CRC_FLIT: "CRC",
    pynvml.NVML_NVLINK_ERROR_DL_CRC_DATA: "CRC",
}
"""Counters of each NVLink, and the kind of errors that they count."""

Part = tuple[Any, dict[str, Any]]  # a MIG instance: its handle, and the fields of `schemas.telemetry.MigInstance`
T = TypeVar("T")


class _Lost(Exception):
    """The driver reports that this GPU is no longer there."""


@dataclass(eq=False)
class Links:
    """The NVLinks of one GPU, and what is kept between reads: how many answered, and how far each counter was."""

    _most: int = 0
    _were_up: bool = False
    _counts: dict[tuple[int, int], int] = field(default_factory=dict)
    _grown: deque[list[tuple[str, int]]] = field(default_factory=lambda: deque(maxlen=GROWN_WITHIN))

    def read(self, handle: Any) -> dict[str, Any] | None:
        """The fields of `schemas.telemetry.NvLink`; None: no link ever said whether it is up. Raises: _Lost."""
        links = range(pynvml.NVML_NVLINK_MAX_LINKS)
        states = {n: on for n in links if (on := _read(pynvml.nvmlDeviceGetNvLinkState, handle, n)) is not None}
        if not (states or self._most):
            return None
        up = [link for link, state in states.items() if state != pynvml.NVML_FEATURE_DISABLED]
        self._most, self._were_up = max(self._most, len(states)), self._were_up or bool(up)
        asked = [(link, number) for link in states for number in _ERRORS]
        now = {at: n for at in asked if (n := _read(pynvml.nvmlDeviceGetNvLinkErrorCounter, handle, *at)) is not None}
        # A counter that went back was reset: what it had before counts for nothing.
        last = self._counts
        self._grown.append([(_ERRORS[at[1]], max(0, n - last[at])) for at, n in now.items() if at in last])
        self._counts = last | now
        steps = [step for grown in self._grown for step in grown]
        fields = [(pynvml.NVML_FI_DEV_NVLINK_GET_SPEED, link) for link in up[:1]]
        speed = _read(pynvml.nvmlDeviceGetFieldValues, handle, fields)
        return {
            "links": self._most,
            "up": len(up),
            "down": len(states) - len(up) if self._were_up else 0,
            "speed_mbps": speed[0].value.uiVal if speed and speed[0].nvmlReturn == pynvml.NVML_SUCCESS else None,
            "errors": {kind: sum(n for of, n in steps if of == kind) for kind in dict(steps)},
        }


@dataclass(eq=False)
class Card:
    """One GPU: its identity, read once, and what is kept between samples."""

    index: int
    uuid: str
    name: str
    handle: Any = None
    xids: deque[int] = field(default_factory=lambda: deque(maxlen=XIDS_KEPT), init=False)
    processes: list[dict[str, Any]] = field(default_factory=list, init=False)
    links: Links = field(default_factory=Links, init=False)
    nvlink: dict[str, Any] | None = field(default=None, init=False)
    mig: tuple[bool | None, list[Part] | None] = field(default=(None, None), init=False)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of `schemas.telemetry.Gpu` that are known without the driver."""
        return {"index": self.index, "uuid": self.uuid, "name": self.name, "xids": list(self.xids)}

    def sample(self, taken: int) -> dict[str, Any]:
        """The fields of `schemas.telemetry.Gpu`; None where the card has none. Raises: _Lost: it fell off the bus."""
        handle = self.handle
        memory = _read(_memory, handle)
        use = _read(pynvml.nvmlDeviceGetUtilizationRates, handle)
        rows = _read(pynvml.nvmlDeviceGetRemappedRows, handle)
        if taken % PROCESSES_EVERY == 0:
            self.mig = _mig(handle, self.index)
            self.processes = _processes(handle, self.index, self.mig[1] or ())
        if taken % LINKS_EVERY == 0:
            self.nvlink = self.links.read(handle)
        return self.identity | {
            "utilisation": use.gpu if use is not None else None,
            "memory_used": memory.used if memory is not None else None,
            "memory_total": memory.total if memory is not None else None,
            "power_w": _scaled(_read(pynvml.nvmlDeviceGetPowerUsage, handle)),
            "power_limit_w": _scaled(_read(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
            "temperature_c": _read(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
            "clock_sm_mhz": _read(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
            "clock_mem_mhz": _read(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
            "throttle": _read(_throttle, handle) or [],
            "ecc_uncorrected": _read(_ecc, handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            "ecc_corrected": _read(_ecc, handle, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            "remapped_rows": rows[0] + rows[1] if rows is not None else None,
            "processes": self.processes,
            "nvlink": self.nvlink,
            "mig": self.mig[0],
            "instances": None if self.mig[1] is None else [fields for _, fields in self.mig[1]],
        }


def _read(call: Callable[..., T], *arguments: Any) -> T | None:
    """Returns one call's value; None where it is refused, as what this driver or this card does not have."""
    try:
        return call(*arguments)
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


def _mig(handle: Any, index: int) -> tuple[bool | None, list[Part] | None]:
    """Reads whether a GPU is in MIG mode, and its instances where it is; None: not known. Raises: _Lost."""
    mode = _read(pynvml.nvmlDeviceGetMigMode, handle)
    on = None if mode is None else mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    most = _read(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) if on else None
    parts = []
    for slot in range(most or 0):
        try:
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)
        except pynvml.NVMLError as fault:
            if fault.value == pynvml.NVML_ERROR_NOT_FOUND:
                continue  # there may be one, and there is none
            return on, None
        ids = (_read(pynvml.nvmlDeviceGetGpuInstanceId, part), _read(pynvml.nvmlDeviceGetComputeInstanceId, part))
        memory = _read(_memory, part)
        fields = {
            "place": "/".join("-" if n is None else str(n) for n in (index, *ids)),
            "uuid": _text(_read(pynvml.nvmlDeviceGetUUID, part) or ""),
            "profile": _text(_read(pynvml.nvmlDeviceGetName, part) or "").rpartition(" MIG ")[2],
            "memory_used": memory.used if memory is not None else None,
            "memory_total": memory.total if memory is not None else None,
        }
        parts.append((part, fields))
    return on, None if most is None else parts


def _processes(handle: Any, index: int, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Compute processes that exist: a driver of another age than the binding reports pids that are none."""
    found = {}
    for one, fields in ((handle, {}), *parts):  # either may be refused where the other is not
        for p in _read(_running, one) or ():
            named = parts and p.gpuInstanceId != 0xFFFFFFFF  # stands for none (nvmlProcessInfo_t)
            place = fields.get("place", f"{index}/{p.gpuInstanceId}/{p.computeInstanceId}" if named else "")
            if os.path.isdir(f"/proc/{p.pid}"):
                found[p.pid] = {"pid": p.pid, "memory_bytes": p.usedGpuMemory, "instance": place}
    return list(found.values())


def _running(handle: Any) -> Any:
    """Older drivers lack the third version; the call without one raises an error there that is no NVMLError."""
    try:
        return pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    except pynvml.NVMLError as fault:
        if fault.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise
        return pynvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)


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
        self._taken = 0

    def line(self) -> dict[str, Any]:
        """Takes one sample. Opens the library first where it is not, at most every REOPEN_S."""
        now = time.monotonic()
        if not self._open and now >= self._next_open:
            self._next_open = now + REOPEN_S
            self._try_open()
        gpus = self._gpus() if self._open else [card.identity for card in self._cards.values()]
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
        for card in [card for card in self._cards.values() if card.handle is not None]:
            try:
                pynvml.nvmlDeviceRegisterEvents(card.handle, pynvml.nvmlEventTypeXidCriticalError, self._events)
            except pynvml.NVMLError as fault:
                print(f"no XID events of {card.uuid}: {fault}", file=sys.stderr)  # noqa: T201 - the daemon's log

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

    def _gpus(self) -> list[dict[str, Any]]:
        self._take_events()
        gpus: list[dict[str, Any]] = []
        lost = list(self._unreachable)
        for card in self._cards.values():
            try:
                if card.handle is None:
                    raise _Lost
                gpus.append(card.sample(self._taken))
            except _Lost:
                lost.append(card.uuid)
                gpus.append(card.identity)
        self._taken += 1
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
