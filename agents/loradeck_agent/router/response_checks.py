"""Response checks: whether a live answer satisfies its route, judged away from the callers' path.

Answers are judged in a child process (`check_worker`), so that neither a costly schema nor a regular expression
that never ends can hold up a request. Where the child is behind, answers go unchecked; they are never counted
as good.
"""

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from loradeck.schemas.table import ResponseChecks

log = logging.getLogger(__name__)

ANSWER_CAP = 2**20
"""Bytes of one answer, as sent; a longer one goes unchecked."""

_QUEUE_CAP = 1000
_BYTES_CAP = 16 * 2**20
_LINE_BYTES = 2**20
"""Most bytes of a line of the child's. Two texts of a sample have twelve bytes for each character at most."""

_RESTART_S = 1.0
_FLUSH_S = 0.02


class Verdict(NamedTuple):
    """What the checks of its route make of an answer."""

    fault: str = ""
    """The check that it failed, which makes it bad; empty: none."""
    noticed: tuple[str, ...] = ()
    """The checks that it failed which make none bad."""

    @property
    def bad(self) -> bool:
        """Whether it is bad."""
        return bool(self.fault)


Done = Callable[[Verdict | None], None]
"""Called with the verdict on an answer; None: it was not judged."""

Texts = tuple[str, str]
"""A question and its answer, as people read them."""


class Charge(Protocol):
    """A function that is told how much processor time plug-ins and judges took."""

    def __call__(self, seconds: float, *, of_plugin: bool) -> None:
        """Takes note of the processor seconds that a plug-in took, or that the texts shown to a judge took."""


_Costly = tuple[str | None, tuple[str, ...]]
"""What of a route's checks may never end: its schema, and its plug-ins."""


_NOTHING_COSTLY: _Costly = (None, ())


def _costly(checks: ResponseChecks) -> _Costly:
    return checks.answer_schema, checks.content.plugins


def _verdict(said: dict[str, Any]) -> Verdict | None:
    return Verdict(said["fault"], tuple(said["noticed"])) if said["fault"] is not None else None


def _counted(said: dict[str, Any]) -> tuple[Texts, int] | None:
    return (texts, said["chars"]) if (texts := _texts(said)) is not None else None


def _texts(said: dict[str, Any]) -> Texts | None:
    return (said["question"], said["answer"]) if said["question"] is not None else None


@dataclass(slots=True)
class _Pending:
    line: bytes
    costly: _Costly
    done: Callable[[Any], None]
    """Called with what the child says, read by `read`; None: it did not come to it."""
    read: Callable[[dict[str, Any]], Any]


def _telling(question: bytes, answer: bytes, streamed: bool, redacted: bool, shown: bool) -> dict[str, Any]:
    texts = {"answer": answer.decode(errors="replace"), "question": question.decode(errors="replace")}
    return {"sse": streamed, "redacted": redacted, "shown": shown, **texts}


class Checks:
    """The bounded queue in front of the child, and the child.

    Routes with plug-ins have a child of their own, so that no plug-in holds up the checks of others.

    `charge`: told of the processor time that plug-ins took, and what a judge is shown, in seconds.
    """

    def __init__(self, charge: Charge = lambda seconds, *, of_plugin: None, *, of_plugins: bool = False) -> None:
        self._of_plugins = None if of_plugins else Checks(charge, of_plugins=True)
        self._charge = charge
        self._pending: dict[int, _Pending] = {}
        self._bytes = 0
        self._unsent: list[bytes] = []
        self._last = 0
        self._wanted = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._fatal: set[_Costly] = set()  # whose check never ended; not tried again

    def start(self) -> None:
        """Starts feeding the child process, which is started with the first answer."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="response checks")
        if self._of_plugins is not None:
            self._of_plugins.start()

    async def close(self) -> None:
        """Ends the child. Answers that were not judged by now stay unchecked."""
        if self._of_plugins is not None:
            await self._of_plugins.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for pending in self._pending.values():
            pending.done(None)
        self._pending.clear()

    def has_room(self, checks: ResponseChecks) -> bool:
        """Tells whether the queue takes another answer, and the check of its route's schema has always ended so far."""
        if self._of_plugins is not None and checks.content.plugins:
            return self._of_plugins.has_room(checks)
        return len(self._pending) < _QUEUE_CAP and self._bytes < _BYTES_CAP and _costly(checks) not in self._fatal

    def submit(self, answer: bytes, *, streamed: bool, checks: ResponseChecks, done: Done) -> None:
        """Queues one whole answer as the engine sent it; `done` is called later, from the event loop."""
        if self._of_plugins is not None and checks.content.plugins:
            self._of_plugins.submit(answer, streamed=streamed, checks=checks, done=done)
            return
        task = {"sse": streamed, "answer": answer.decode(errors="replace"), "checks": checks.model_dump()}
        self._put(task, _costly(checks), done, _verdict)

    def texts(
        self, question: bytes, answer: bytes, *, streamed: bool, redacted: bool, done: Callable[[Texts | None], None]
    ) -> None:
        """Queues a request's body and its answer, and calls `done` later with the texts in them, cut as a sample's are.

        None: they have none that could be read in time.

        `redacted`: for a sample; otherwise a judge is shown them, which is charged.
        """
        self._put(_telling(question, answer, streamed, redacted, not redacted), _NOTHING_COSTLY, done, _texts)

    def counted(
        self, question: bytes, answer: bytes, *, streamed: bool, done: Callable[[tuple[Texts, int] | None], None]
    ) -> None:
        """Queues a request's body and its answer to be counted: `done` gets their texts and the question's length.

        The length is in characters, of the whole question as far as it is looked at.
        """
        self._put(_telling(question, answer, streamed, False, False), _NOTHING_COSTLY, done, _counted)

    def _put(
        self,
        task: dict[str, Any],
        costly: _Costly,
        done: Callable[[Any], None],
        read: Callable[[dict[str, Any]], Any],
    ) -> None:
        self._last += 1
        line = json.dumps({"n": self._last, **task}).encode() + b"\n"
        self._pending[self._last] = _Pending(line, costly, done, read)
        self._bytes += len(line)
        self._wanted.set()
        self._unsent.append(line)
        if len(self._unsent) == 1:
            asyncio.get_running_loop().call_later(_FLUSH_S, self._flush)

    # ---- the child -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        await self._wanted.wait()  # a node whose routes check nothing needs no child
        while True:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "loradeck_agent.router.check_worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
                start_new_session=True,
            )
            try:
                await self._converse(child)
            finally:
                self._child = None
                if child.returncode is None:
                    child.kill()
                await child.wait()
            self._blame_oldest(child.returncode)
            await asyncio.sleep(_RESTART_S)

    def _flush(self) -> None:
        """Writes all unsent answers at once; without a child they wait in `_pending` for the next one."""
        lines, self._unsent = self._unsent, []
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.write(b"".join(lines))

    async def _converse(self, child: asyncio.subprocess.Process) -> None:
        """Feeds the child the waiting answers, then reads its verdicts until it is gone."""
        assert child.stdin is not None
        assert child.stdout is not None
        self._unsent = [pending.line for pending in self._pending.values()]
        self._child = child
        self._flush()
        while line := await child.stdout.readline():
            said = json.loads(line)
            if "model_s" in said:
                self._charge(said["model_s"], of_plugin=True)
            if "shown_s" in said:
                self._charge(said["shown_s"], of_plugin=False)
            self._finish(said["n"], said)

    def _finish(self, n: int, said: dict[str, Any] | None) -> _Costly:
        pending = self._pending.pop(n)
        self._bytes -= len(pending.line)
        try:
            pending.done(pending.read(said) if said is not None else None)
        except Exception:  # of whoever waits for one answer: the others are checked still
            log.exception("what comes after the checks of an answer failed")
        return pending.costly

    def _blame_oldest(self, returncode: int | None) -> None:
        """Gives up the oldest answer that the dead child had not judged; its schema too, if time ran out over it."""
        costly = self._finish(next(iter(self._pending)), None) if self._pending else _NOTHING_COSTLY
        if returncode == -signal.SIGALRM and costly != _NOTHING_COSTLY:
            self._fatal.add(costly)
            log.error("a schema or a plug-in takes too long; its answers go unchecked: %s %.200s", costly[1], costly[0])
        else:
            log.error("the checker ended with %s; it is started again", returncode)
