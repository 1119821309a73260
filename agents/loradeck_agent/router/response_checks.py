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

from loradeck.schemas.route import ResponseChecks

log = logging.getLogger(__name__)

ANSWER_CAP = 2**20
"""Bytes of one answer, as sent; a longer one goes unchecked."""

_QUEUE_CAP = 1000
_BYTES_CAP = 16 * 2**20
_RESTART_S = 1.0
_FLUSH_S = 0.02

Done = Callable[[str | None], None]
"""Called with the name of the check that an answer failed, which makes it bad; "": none; None: it was not judged."""


@dataclass(slots=True)
class _Pending:
    line: bytes
    answer_schema: str | None
    done: Done


class Checks:
    """The bounded queue in front of the child, and the child."""

    def __init__(self) -> None:
        self._pending: dict[int, _Pending] = {}
        self._bytes = 0
        self._unsent: list[bytes] = []
        self._last = 0
        self._wanted = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._fatal: set[str | None] = set()  # schemas whose check never ended; not tried again

    def start(self) -> None:
        """Starts feeding the child process, which is started with the first answer."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="response checks")

    async def close(self) -> None:
        """Ends the child. Answers that were not judged by now stay unchecked."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for pending in self._pending.values():
            pending.done(None)
        self._pending.clear()

    def has_room(self, checks: ResponseChecks) -> bool:
        """Tells whether the queue takes another answer, and the check of its route's schema has always ended so far."""
        return len(self._pending) < _QUEUE_CAP and self._bytes < _BYTES_CAP and checks.answer_schema not in self._fatal

    def submit(self, answer: bytes, *, streamed: bool, checks: ResponseChecks, done: Done) -> None:
        """Queues one whole answer as the engine sent it; `done` is called later, from the event loop."""
        self._last += 1
        document = {"n": self._last, "sse": streamed, "answer": answer.decode(errors="replace")}
        line = json.dumps(document | {"checks": checks.model_dump()}).encode() + b"\n"
        self._pending[self._last] = _Pending(line, checks.answer_schema, done)
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
            verdict = json.loads(line)
            self._finish(verdict["n"], verdict["fault"])

    def _finish(self, n: int, fault: str | None) -> str | None:
        pending = self._pending.pop(n)
        self._bytes -= len(pending.line)
        pending.done(fault)
        return pending.answer_schema

    def _blame_oldest(self, returncode: int | None) -> None:
        """Gives up the oldest answer that the dead child had not judged; its schema too, if time ran out over it."""
        schema = self._finish(next(iter(self._pending)), None) if self._pending else None
        if returncode == -signal.SIGALRM and schema is not None:
            self._fatal.add(schema)
            log.error("a schema takes too long to check; its answers go unchecked: %.200s", schema)
        else:
            log.error("the checker ended with %s; it is started again", returncode)
