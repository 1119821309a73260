"""How every executor process starts, reports progress, publishes its results and ends.

    python -m loradeck_agent.executors KIND --spec spec.json

Events are appended to the spec's event file, one JSON line each, unbuffered; nobody reads stdout. The first error goes
to its own file with its traceback. SIGTERM asks the executor to stop after the step in hand. The exit status says how
the run ended; 0 counts only together with a FINISHED event, which is written last.

Results appear whole or not at all: in a staging folder that is synced and renamed.
"""

import argparse
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypedDict, Unpack

from pydantic import BaseModel, ValidationError

from loradeck.schemas import executor
from loradeck_agent.host.state_folder import fsync_folder

EXIT_FAILED = 1
HEARTBEAT_S = 2.0
"""Longest silence of an executor between two steps of its loop."""


class ExecutorFailure(Exception):
    """Ends a run that cannot succeed; `code` is stable and travels in the FAILED event."""

    exit_status = EXIT_FAILED

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BadSpec(ExecutorFailure):
    """The spec, the data or the base is wrong, so another attempt would fail alike."""

    exit_status = executor.EXIT_BAD_SPEC


class Diverged(ExecutorFailure):
    """Training has diverged: a loss, gradient or weight is not finite, or a guard gave up."""

    exit_status = executor.EXIT_DIVERGED

    def __init__(self, message: str, code: str = "diverged") -> None:
        super().__init__(code, message)


class OutOfMemory(ExecutorFailure):
    """The work does not fit into this node's memory."""

    exit_status = executor.EXIT_OUT_OF_MEMORY

    def __init__(self, message: str) -> None:
        super().__init__("out_of_memory", message)


class Preempted(Exception):
    """SIGTERM was received and the step in hand is finished."""


class EventFields(TypedDict, total=False):
    """The fields of an executor's event beside its type; see `ExecutorEvent`."""

    step: int | None
    of: int | None
    metrics: dict[str, float]
    message: str
    code: str | None
    data: dict[str, Any]


class Run:
    """A run under way: its spec, its event file and whether it was asked to stop."""

    def __init__(self, spec: executor.ExecutorSpec) -> None:
        self.spec = spec
        self.stopping = False
        rank, events = int(os.environ.get("RANK", "0")), Path(spec.events)
        # Under torchrun the agent reads only the first process's events; those of the others help when debugging.
        own = events if rank == 0 else events.with_name(f"{events.stem}.rank{rank}{events.suffix}")
        self._events = own.open("ab", buffering=0)
        before = own.read_bytes()  # of an attempt that its scheduler begins again: it goes on in the same file
        self._seq = _next_seq(before)
        if before and not before.endswith(b"\n"):
            self._events.write(b"\n")
        self._last = 0.0
        self._step: tuple[int | None, int | None] = (None, None)

    def emit(self, type_: executor.ExecutorEventType, **fields: Unpack[EventFields]) -> None:
        """Appends one event to the event file; a terminal one is durable then. Raises: OSError: the disk refused."""
        run, attempt, now = self.spec.run, self.spec.attempt, time.time()
        event = executor.ExecutorEvent(run=run, attempt=attempt, seq=self._seq, ts=now, type=type_, **fields)
        self._events.write(event.model_dump_json(exclude_defaults=True, exclude={"v"}).encode() + b"\n")
        if type_ in executor.TERMINAL:
            os.fsync(self._events.fileno())
        self._seq += 1
        self._last = time.monotonic()

    def progress(self, step: int, of: int, message: str = "", **metrics: float) -> None:
        """Reports that `step` of `of` is done, with the step's metrics."""
        self._step = (step, of)
        self.emit(executor.ExecutorEventType.PROGRESS, step=step, of=of, metrics=metrics, message=message)

    def phase(self, message: str, **metrics: float) -> None:
        """Reports the work between two steps, such as loading the base, as a heartbeat with a message."""
        self.emit(executor.ExecutorEventType.HEARTBEAT, message=message, metrics=metrics)

    def check(self) -> None:
        """Sends a heartbeat if one is due and ends the run after SIGTERM. Call it between steps.

        Raises: Preempted: SIGTERM was received.
        """
        if self.stopping:
            raise Preempted
        self.beat()

    def beat(self) -> None:
        """Sends a heartbeat unless an event was written within the last `HEARTBEAT_S` seconds."""
        if time.monotonic() - self._last > HEARTBEAT_S:
            self.emit(executor.ExecutorEventType.HEARTBEAT, step=self._step[0], of=self._step[1])

    def input(self, digest: str) -> Path:
        """The file or folder of an input. Raises: BadSpec: `bad_spec`: the spec gives none."""
        try:
            return Path(self.spec.inputs[digest])
        except KeyError as error:
            raise BadSpec("bad_spec", f"the spec gives no folder for the input {digest}") from error

    def publish(self, files: Mapping[str, BaseModel | bytes]) -> None:
        """Publishes documents and files by their names as the spec's `out` folder; see `staged`."""
        with staged(Path(self.spec.out)) as staging:
            for name, content in files.items():
                write_file(staging / name, content)

    def first_error(self, error: BaseException) -> None:
        """Writes an error with its traceback to the spec's error file, unless an earlier error is kept there."""
        try:
            with Path(self.spec.error).open("x") as file:
                file.write("".join(traceback.format_exception(error)))
        except FileExistsError:
            return


def _next_seq(events: bytes) -> int:
    """Number of the event after these; the last one may have been cut off."""
    for line in reversed(events.splitlines()):
        try:
            return executor.ExecutorEvent.model_validate_json(line).seq + 1
        except ValidationError:
            continue
    return 0


Work = Callable[[Run], Mapping[str, Any]]
"""The work of an executor. Returns the data of its FINISHED event once its results are complete on the disk."""


def run(kind: str, work: Work, argv: Sequence[str] | None = None) -> int:
    """Command line of the executor of this kind: reads the spec, runs `work` and returns the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m loradeck_agent.executors {kind}")
    parser.add_argument("--spec", type=Path, required=True, help="spec.json")
    path = parser.parse_args(argv).spec
    try:
        spec = executor.ExecutorSpec.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        sys.stderr.write(f"error: {path} is not a valid executor spec: {error}\n")
        return executor.EXIT_BAD_SPEC
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("USE_HUB_KERNELS", "NO")  # code that nobody here has looked at
    umask = os.umask(0o077)
    current = Run(spec)

    def stop(_: int, __: FrameType | None) -> None:
        current.stopping = True

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        current.emit(executor.ExecutorEventType.STARTED, data={"pid": os.getpid()})
        if spec.spec.kind != kind:
            raise BadSpec("bad_spec", f"this is the {kind} executor, the spec is for {spec.spec.kind}")
        data = work(current)
        current.emit(executor.ExecutorEventType.FINISHED, data=dict(data))
        return executor.EXIT_OK
    except Preempted:
        current.emit(executor.ExecutorEventType.PREEMPTED, message="stopped on request", code="preempted")
        return executor.EXIT_PREEMPTED
    except Exception as error:
        current.first_error(error)
        code, status = classify(error)
        message = str(error) if isinstance(error, ExecutorFailure) else f"{type(error).__name__}: {error}"
        current.emit(executor.ExecutorEventType.FAILED, message=message[:1000], code=code)
        return status
    finally:
        signal.signal(signal.SIGTERM, previous)
        os.umask(umask)


def classify(error: Exception) -> tuple[str, int]:
    """Maps an error that ended a run to its event code and exit status.

    Memory errors of Python and torch become `out_of_memory`, operating system errors `disk_full` or `os_error`, others
    `executor_failed`.
    """
    if isinstance(error, ExecutorFailure):
        return error.code, error.exit_status
    # torch raises a plain RuntimeError when the host's memory is at its end.
    if isinstance(error, MemoryError) or any(
        text in str(error) for text in ("DefaultCPUAllocator", "out of memory", "can't allocate memory")
    ):
        return "out_of_memory", executor.EXIT_OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        return ("disk_full" if error.errno in (28, 122) else "os_error"), EXIT_FAILED
    return "executor_failed", EXIT_FAILED


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yields an empty staging folder that becomes `out` durably on success, and is removed after any exception.

    An older `out` is replaced.

    Raises: OSError: the disk refused; `out` is as it was.
    """
    staging = out.with_name(f".{out.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700, parents=True)
    try:
        yield staging
        fsync_folder(staging)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
        fsync_folder(out.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def write_file(path: Path, content: bytes | BaseModel) -> None:
    """Writes a new file, a document as JSON, and syncs it. Raises: FileExistsError: the file exists."""
    data = content if isinstance(content, bytes) else content.model_dump_json(indent=1).encode() + b"\n"
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
