"""Simulated time: a scheduler for many processes, each with an asyncio loop of its own, driven by one random generator.

Time stands still while any callback is ready, and then jumps to the next timer. A process that is paused keeps its
callbacks; one that is killed loses them and never runs again: no `finally` of it is run before the whole run has ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import random
import warnings
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

EPOCH_S = 1_700_000_000.0
"""Wall clock at the start of every run, seconds since 1970."""


class Died(BaseException):
    """The process ends in the middle of this call. Nothing of it runs afterwards."""


class Stuck(Exception):
    """Nothing is ready and no timer is set: the run can never end."""


class Scheduler:
    """The clock, the queue of ready callbacks and the timers of all processes; the trace of the run.

    Attributes:
        now: seconds since the start of the run.
        steps: callbacks run so far.
    """

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.trace: list[str] | None = [] if keep_trace else None
        self.processes: list[Process] = []
        self._ready: deque[tuple[Process | None, asyncio.Handle | _Outside]] = deque()
        self._timers: list[tuple[float, int, Process | None, asyncio.Handle | _Outside]] = []
        self._count = 0
        self._hash = hashlib.sha256()

    # ---- trace ---------------------------------------------------------------------------------------------

    def note(self, *what: object) -> None:
        """Adds a line to the trace."""
        line = f"{self.now:10.6f} {' '.join(map(str, what))}"
        self._hash.update(line.encode())
        if self.trace is not None:
            self.trace.append(line)

    @property
    def digest(self) -> str:
        """Digest of the trace so far."""
        return self._hash.hexdigest()

    # ---- scheduling ----------------------------------------------------------------------------------------

    def soon(self, process: Process, handle: asyncio.Handle) -> None:
        """Runs a callback of a process as soon as possible."""
        self._ready.append((process, handle))

    def at(self, when: float, process: Process | None, handle: asyncio.Handle | _Outside) -> None:
        """Runs a callback at a time of the run."""
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, process, handle))

    def later(self, seconds: float, call: Callable[..., object], *args: object) -> None:
        """Calls something that belongs to no process, such as the network, after some seconds."""
        self.at(self.now + seconds, None, _Outside(call, args))

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        """Runs callbacks until a condition holds or the simulated time passes a limit.

        The condition is looked at whenever time stands still no more, and at the latest after a thousand callbacks.

        Raises: Stuck.
        """
        ready, timers, enter = self._ready, self._timers, events._set_running_loop
        while not until():
            if not ready:
                if not timers:
                    raise Stuck(f"nothing is left to run at {self.now:.3f} s")
                when = timers[0][0]
                if when > limit_s:
                    self.now = limit_s
                    return
                self.now = max(self.now, when)
                while timers and timers[0][0] <= self.now:
                    _, _, process, handle = heapq.heappop(timers)
                    ready.append((process, handle))
            for _ in range(1000):
                if not ready:
                    break
                process, handle = ready.popleft()
                if handle._cancelled:
                    continue
                if process is not None:
                    if not process.alive:
                        continue
                    if process.paused:
                        process.parked.append(handle)  # type: ignore[arg-type]
                        continue
                enter(process)
                if process is not None and process.dies_after is not None:
                    process.dies_after -= 1
                    if process.dies_after < 0:
                        process.kill("in the middle")
                        continue
                self.steps += 1
                handle._run()


class _Handle(asyncio.Handle):
    """A callback of a process, as asyncio has it, without what its debug mode needs."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: Process, context: Context | None) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None

    def _run(self) -> None:
        try:
            self._context.run(self._callback, *self._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._loop.call_exception_handler({"message": f"Exception in callback {self!r}", "exception": error})


class _Outside:
    """A callback that belongs to no process. What it raises ends the run."""

    __slots__ = ("_args", "_call")
    _cancelled = False

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._call, self._args = call, args

    def _run(self) -> None:
        self._call(*self._args)


class Process(asyncio.AbstractEventLoop):
    """One simulated process: an event loop with a name, on a host.

    Attributes:
        skew: seconds that its host's wall clock differs from the true time.
        dies_after: it is killed after so many more callbacks; None: it is not.
    """

    def __init__(self, scheduler: Scheduler, host: Any, name: str, started_by: Process | None = None) -> None:
        self.scheduler = scheduler
        self.host = host
        self.name = name
        self.alive = True
        self.paused = False
        self.parked: list[asyncio.Handle] = []
        self.dies_after: int | None = None
        self.pid = len(scheduler.processes) + 100
        self.ended: list[Callable[[], object]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.fds: dict[int, Any] = {}
        self._readers: dict[int, asyncio.Handle] = {}
        scheduler.processes.append(self)

    # ---- life ----------------------------------------------------------------------------------------------

    def start(self, main: Coroutine[Any, Any, Any]) -> None:
        """Runs a coroutine as the main task. The process ends with it."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        task = self.create_task(main)
        events._set_running_loop(before)
        task.add_done_callback(self._main_ended)

    def _main_ended(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if self.alive:
            self.kill(f"its main task ended: {error!r}")

    def kill(self, why: str) -> None:
        """Ends it at once, as SIGKILL does; whoever watches it learns of it."""
        if not self.alive:
            return
        self.alive = False
        self.parked.clear()
        self.scheduler.note("ends", self.name, why)
        ended, self.ended = self.ended, []
        for call in ended:
            call()

    def pause(self) -> None:
        """Stops it, as SIGSTOP does."""
        self.paused = True

    def resume(self) -> None:
        """Lets it go on, as SIGCONT does."""
        self.paused = False
        parked, self.parked = self.parked, []
        for handle in parked:
            self.scheduler.soon(self, handle)

    # ---- the part of asyncio's interface that is used ---------------------------------------------------------

    def time(self) -> float:
        """Its monotonic clock, seconds."""
        return self.scheduler.now + 1000.0

    def wall(self) -> float:
        """Its wall clock, seconds since 1970."""
        return EPOCH_S + self.scheduler.now + float(self.host.skew)

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self.scheduler._ready.append((self, handle))
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + max(0.0, delay), callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.scheduler.at(when - 1000.0, self, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.tasks.append(task)
        if len(self.tasks) > 400:
            self.tasks = [task for task in self.tasks if not task.done()]
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """A thread's work: done after a moment, in one piece."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        self.call_later(self.scheduler.random.uniform(0.0001, 0.002), work)
        return future

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        """Calls back once the process behind a pidfd has ended."""
        handle = asyncio.Handle(callback, args, self)
        self._readers[fd] = handle
        watched = self.fds[fd]

        def ended() -> None:
            if fd in self._readers and self.alive:
                self.call_later(0.0005, handle._run)

        if watched.alive:
            watched.ended.append(ended)
        else:
            ended()

    def remove_reader(self, fd: Any) -> bool:
        return self._readers.pop(fd, None) is not None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Asyncio's own complaints: a task's exception that nobody read."""
        self.scheduler.note("asyncio", self.name, context.get("message"), repr(context.get("exception")))

    get_debug = staticmethod(bool)
    """False; asked twice for each callback, so that a function in C saves a hundredth of a run."""

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False


def current() -> Process | None:
    """The process whose callback runs now; None: the world outside."""
    loop = events._get_running_loop()
    return loop if isinstance(loop, Process) else None


def close(scheduler: Scheduler) -> None:
    """Ends every coroutine of a run, so that none is left for later. What they still do has no effect."""
    for process in scheduler.processes:
        process.alive = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a coroutine that such an end has made and nobody awaits
        for process in scheduler.processes:
            events._set_running_loop(process)
            for task in process.tasks:
                if not task.done():
                    try:
                        task.get_coro().close()  # type: ignore[union-attr]
                    except BaseException:
                        continue
            process.tasks.clear()
    events._set_running_loop(None)
    scheduler._ready.clear()
    scheduler._timers.clear()
