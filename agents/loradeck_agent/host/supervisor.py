"""Keeps one router or engine running: starts it, adopts the one that runs already, restarts it when it ends.

An engine that somebody else runs is only watched (`Watched`).

Each runs in a session of its own with its output in a file, and outlives the agent. Two never run: the one
that runs holds its lock, and a second could not take it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from loradeck.client.backoff import Backoff
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.process import keep_trimmed, trim
from loradeck_agent.host.state_folder import holder_of

log = logging.getLogger(__name__)

POLL_S = 0.05
TAKE_OVER_S = 1.0
STEADY_S = 60.0
"""A process that lived this long starts the back-off again from its beginning."""

WATCH_S = 0.5
"""Between two looks at a program that somebody else runs."""

SILENCES = 3
"""Looks without an answer in time after which such a program counts as gone. A refused connection is the end."""


@dataclass(frozen=True)
class Program:
    """A program to start. `ready_s`: seconds it may take until `probe` answers; `environment`: added to ours."""

    name: str
    argv: tuple[str, ...]
    lock: Path
    log: Path
    ready_s: float
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Supervised:
    """Runs one program for as long as `run` does, and leaves it running when `run` is cancelled.

    Attributes:
        probe: the running process's boot id once it answers, else None. Must not raise.
        came_up: called with the boot id and whether the process was found running. It is called again after
            every restart, and once a second for as long as it raises an AgentError.
        went_down: called when the process has ended.
    """

    program: Program
    _: KW_ONLY
    probe: Callable[[], Awaitable[str | None]]
    came_up: Callable[[str, bool], Awaitable[None]]
    went_down: Callable[[], Awaitable[None]]
    more: Callable[[], Sequence[str]] = tuple
    """Further arguments, asked for at each start. Raises OSError: it cannot be started now."""
    files: Callable[[], Sequence[int]] = tuple
    """Files of ours that it inherits, under their numbers here."""
    succeed: Sequence[str] = ()
    """Further arguments of a process that takes over from the one that runs; without any, none does."""
    backoff: Backoff = field(default_factory=Backoff)
    pid: int | None = field(default=None, init=False)
    began: float = field(default=0.0, init=False)
    """When the process that runs was started, if by us; monotonic seconds."""
    _life: _Life | None = field(default=None, init=False)
    _replace: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _leaving: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    async def run(self) -> None:
        """Starts the program, or adopts the one that runs, again and again until cancelled."""
        trimming = asyncio.create_task(keep_trimmed(self.program.log))
        try:
            await self._life_after_life()
        finally:
            for task in (trimming, *self._leaving):
                task.cancel()

    def replace(self) -> None:
        """Has another process take over from the one that runs, once one runs. If that fails, it goes on."""
        self._replace.set()

    async def _life_after_life(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._one_life()
            except OSError as error:
                log.error("%s cannot be started: %s", self.program.name, error)
            failures = 0 if time.monotonic() - began > STEADY_S else failures + 1
            pause = self.backoff.pause(failures)
            log.warning("%s is started again in %.1f s", self.program.name, pause)
            await asyncio.sleep(pause)

    async def end(self, grace_s: float) -> bool:
        """Ends the process, also one that an agent before this one started. False: none ran.

        `run` must have been cancelled, or it would start another.

        Raises: AgentError: `will_not_end`.
        """
        pid = self.pid or await asyncio.to_thread(holder_of, self.program.lock)
        if pid is None:
            return False
        self.pid = pid
        await asyncio.to_thread(end_process, pid, self.program.name, grace_s=grace_s)
        if self._life is not None and self._life.pid == pid:
            self._life.how_it_ended()
        self.pid = None
        return True

    async def _one_life(self) -> None:
        found = await asyncio.to_thread(holder_of, self.program.lock)
        try:
            life = self._start() if found is None else _Life(found)
        except ProcessLookupError:
            return
        adopted = found is not None
        try:
            self._life, self.pid = life, life.pid
            boot = await self._until_ready(life)
            while boot is not None:
                log.info("%s runs: pid %d%s", self.program.name, life.pid, ", adopted" if adopted else "")
                await self._take_over(boot, adopted, life.ended)
                after = await self._until_succeeded(life, boot)
                if after is None:
                    break
                self._leave(life)
                (life, boot), adopted = after, False
                self._life, self.pid = life, life.pid
            if life.ended.done():
                log.error("%s ended (%s); its log is %s", self.program.name, life.how_it_ended(), self.program.log)
            else:
                log.error("%s has handed over, and nobody has taken over", self.program.name)
            self.pid = None
            try:
                await self.went_down()
            except AgentError as error:
                log.warning("after the end of %s: %s", self.program.name, error)
        finally:
            if life.ended.done():
                life.close()
            else:
                self._leave(life)

    # ---- one after the other -------------------------------------------------------------------------------

    async def _until_succeeded(self, life: _Life, boot: str) -> tuple[_Life, str] | None:
        """The process that has taken over from this one, with its boot id; None: this one ended, or serves no more."""
        while not life.ended.done():
            wanted = asyncio.get_running_loop().create_task(self._replace.wait())
            either: list[asyncio.Future[Any]] = [life.ended, wanted]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                wanted.cancel()
            if not self._replace.is_set():
                continue
            self._replace.clear()
            if (after := await self._successor(boot)) is not None:
                return after
            log.error("%s was not replaced; its log is %s", self.program.name, self.program.log)
            if await asyncio.to_thread(holder_of, self.program.lock) != life.pid:
                break
        return None

    async def _successor(self, boot: str) -> tuple[_Life, str] | None:
        """Starts a process that takes over from the one with this boot id; None: it did not."""
        try:
            life = self._start(*self.succeed)
        except OSError as error:
            log.error("%s cannot be started: %s", self.program.name, error)
            return None
        try:
            now = await self._until_ready(life, before=boot)
            if now is not None:
                return life, now
            log.error("%s ended before it took over (%s)", self.program.name, life.how_it_ended())
        except BaseException:
            life.close()
            raise
        life.close()
        return None

    def _leave(self, life: _Life) -> None:
        """Lets a process end by itself, and notes it when it has."""

        async def left() -> None:
            await life.ended
            log.info("%s before it (pid %d) ended (%s)", self.program.name, life.pid, life.how_it_ended())

        def over(task: asyncio.Task[None]) -> None:
            self._leaving.discard(task)
            life.close()

        task = asyncio.get_running_loop().create_task(left())
        self._leaving.add(task)
        task.add_done_callback(over)

    async def _take_over(self, boot: str, adopted: bool, ended: asyncio.Future[None]) -> None:
        """Calls `came_up`, again each second for as long as it raises an AgentError."""
        logged = ""
        while not ended.done():
            try:
                await self.came_up(boot, adopted)
                return
            except AgentError as error:
                if str(error) != logged:
                    log.warning("%s is not taken over yet: %s", self.program.name, error)
                logged = str(error)
            await asyncio.wait([ended], timeout=TAKE_OVER_S)

    def _start(self, *more: str) -> _Life:
        program = self.program
        argv, files = (*program.argv, *self.more(), *more), tuple(self.files())
        trim(program.log)
        try:
            out = os.open(program.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.error("%s is started without its log %s: %s", program.name, program.log, error)
            out = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=program.log.parent,
                env={**os.environ, **program.environment},
                umask=0o077,
                pass_fds=files,
            )
        finally:
            os.close(out)
        self.began = time.monotonic()
        return _Life(child.pid, child)

    async def _until_ready(self, life: _Life, before: str | None = None) -> str | None:
        """The boot id once the process answers; None when it ended first. `before`: of the one that answered before."""
        deadline = time.monotonic() + self.program.ready_s
        while not life.ended.done():
            boot = await self.probe()
            if boot not in (None, before):
                return boot
            if time.monotonic() > deadline:
                log.error("%s did not answer in %g s and is ended", self.program.name, self.program.ready_s)
                life.kill()
                await life.ended
                return None
            await asyncio.wait([life.ended], timeout=POLL_S)
        return None


class _Life:
    """One process, from its start, or from when it was found running, to its end.

    Attributes:
        ended: done when it has ended.
    """

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        """Watches a process. Raises ProcessLookupError: it is gone."""
        self.pid = pid
        self._child = child
        self._watch = os.pidfd_open(pid)
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._watch, _resolve, self.ended)

    def kill(self) -> None:
        """Ends it at once."""
        signal.pidfd_send_signal(self._watch, signal.SIGKILL)

    def how_it_ended(self) -> str:
        """Says in words how it ended. Blocks until it has, where it is a child of this process."""
        if self._child is None:
            return "not our child: status unknown"
        status = self._child.wait()
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name

    def close(self) -> None:
        """Watches no more. The process goes on."""
        asyncio.get_running_loop().remove_reader(self._watch)
        os.close(self._watch)


@dataclass(eq=False)
class Watched:
    """Watches one program that somebody else runs, for as long as `run` does. Never starts or ends it.

    Attributes:
        probe: the running process's boot id, None while it is not ready. May raise an AgentError.
        came_up: called with the boot id of every process that comes up, until it raises no AgentError.
        went_down: called when the process that was there, if any, is gone or is another.
        look: called about twice a second while the process is up. May raise an AgentError.
    """

    name: str
    _: KW_ONLY
    probe: Callable[[], Awaitable[str | None]]
    came_up: Callable[[str], Awaitable[None]]
    went_down: Callable[[], Awaitable[None]]
    look: Callable[[], Awaitable[None]]
    _boot: str | None = field(default=None, init=False)
    _silences: int = field(default=0, init=False)
    _logged: str = field(default="", init=False)

    async def run(self) -> None:
        """Looks at the program twice a second until cancelled."""
        seen = await self._seen()
        await self._turn(seen)
        if self._boot is None:
            await self._lost("does not answer" if seen is None else "is not used")
        while True:
            await asyncio.sleep(WATCH_S)
            await self._turn(await self._seen())

    async def _turn(self, boot: str | None) -> None:
        """Looks once: `boot` is what runs now."""
        if self._boot is not None and boot != self._boot:
            await self._lost("is gone" if boot is None else "was started again")
        try:
            if boot is None:
                return
            if boot != self._boot:
                await self.came_up(boot)
                log.info("%s is up", self.name)
                self._boot = boot
            else:
                await self.look()
            self._logged = ""
        except AgentError as error:
            self._log_once("is not used" if self._boot is None else "cannot be looked at", error)

    async def _lost(self, how: str) -> None:
        log.error("%s %s", self.name, how)
        self._boot = None
        try:
            await self.went_down()
        except AgentError as error:
            log.warning("after the end of %s: %s", self.name, error)

    async def _seen(self) -> str | None:
        """The boot id of what runs. One that is merely slow to answer is not gone."""
        try:
            boot = await self.probe()
        except Unreachable as error:
            self._silences = self._silences + 1 if error.silent else 0
            if error.silent and self._silences < SILENCES:
                log.warning("%s: %s", self.name, error)
                return self._boot
            return None
        except AgentError as error:
            self._log_once("cannot be identified", error)
            return None
        self._silences = 0
        return boot

    def _log_once(self, what: str, error: AgentError) -> None:
        """Logs an error once, not at every look."""
        if str(error) != self._logged:
            log.error("%s %s: %s", self.name, what, error)
        self._logged = str(error)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def end_process(pid: int, what: str, *, grace_s: float) -> str:
    """Ends a process: SIGTERM, a grace, then SIGKILL. Blocks. Returns how it ended, in words for a person.

    Raises: AgentError: `will_not_end`, when even SIGKILL did not end it (a process in an uninterruptible call).
    """
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return "was gone"
    try:
        for how, sent, patience in (("ended", signal.SIGTERM, grace_s), ("killed", signal.SIGKILL, 10.0)):
            try:
                signal.pidfd_send_signal(watch, sent)
            except ProcessLookupError:
                return how
            if _wait_readable(watch, patience):
                return how
    finally:
        os.close(watch)
    raise AgentError(
        "will_not_end", f"{what} (pid {pid}) did not end", "it sits in the kernel", "look at the host's kernel log"
    )


def _wait_readable(fd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
