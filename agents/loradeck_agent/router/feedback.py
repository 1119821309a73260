"""Feedback, and counts of what callers ask: a router keeps both in files until the agent has given them to the hub.

A caller is answered once its feedback is on the disk, and nothing of a completion waits for that: one file for each,
its tenant in its name.

Counts are kept without any text: buckets of words, of lengths and of short answers, by the day, of a sample of the
requests, of the tenants that have them counted. The checker's process reads the texts, and what is left of them here
are counts, which go to a file every quarter of an hour. A router that is killed loses those of its last quarter.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Iterable
from functools import partial
from itertools import count
from pathlib import Path
from zlib import crc32

from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.feedback import FeedbackRow
from loradeck.schemas.ids import PointerKey
from loradeck_agent.host.state_folder import FEEDBACK_SUFFIX, INPUTS_SUFFIX, write_durably
from loradeck_agent.router.admission import Refusal
from loradeck_agent.router.response_checks import Checks, Texts
from loradeck_agent.router.trace import Row

log = logging.getLogger(__name__)

MOST = 10_000
"""Files that wait for the agent at most. A tenant may have as many of them as there is room left, so that none takes
all of it. Beyond that callers are told to come later.
"""

_FULL = Refusal(503, "feedback_full", "This node cannot keep more feedback now.", "Send it again later.", 60)


class FeedbackFiles:
    """Writes feedback to its folder, which is made where it is missing.

    `boot`: tells the files of this router from those of the one before it.
    """

    def __init__(self, folder: Path, boot: str) -> None:
        self._folder, self._boot, self._numbers = folder, boot, count()

    async def keep(self, tenant: str, row: FeedbackRow) -> Refusal | None:
        """Puts feedback on the disk. Returns why not, if it could not."""
        name = f"{time.time_ns() // 1_000_000:013d}-{self._boot}-{next(self._numbers)}.{tenant}{FEEDBACK_SUFFIX}"
        return await asyncio.to_thread(self._write, tenant, name, row.model_dump_json().encode())

    def _write(self, tenant: str, name: str, data: bytes) -> Refusal | None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            there = os.listdir(self._folder)
            own = sum(one.partition(".")[2] == f"{tenant}{FEEDBACK_SUFFIX}" for one in there)
            if own >= MOST - len(there):
                return _FULL
            write_durably(self._folder / name, data)
        except OSError as error:
            log.error("feedback is refused: the disk: %s", error)
            return _FULL
        return None


EVERY_S = 2.0
"""Seconds between two requests of a route that are counted."""

NODE_EVERY_S = 0.1
"""Seconds between two requests of a node that are counted, whatever their routes."""

WRITE_S = 900.0
"""Seconds between two files."""

MOST_FILES = 2_000
"""Files that wait for the agent at most. Counts beyond that are lost, and the log says so."""

CLASS_CHARS = 40
"""Characters that an answer has at most to count as a class."""

_AT_ONCE = 8
_WORD = re.compile(r"\w+")


class DayCounts:
    """The counts of one route on one day so far."""

    def __init__(self) -> None:
        from loradeck.schemas.counts import CLASSES, LENGTHS, WORDS  # most nodes never count any

        self.requests = 0
        self.words, self.lengths, self.classes = [0] * WORDS, [0] * LENGTHS, [0] * CLASSES

    def add(self, question: str, answer: str, chars: int) -> None:
        """Counts a request, and its answer where it is one short line.

        `chars`: of the whole question, whose end `question` is.
        """
        self.requests += 1
        for bucket in {crc32(word.encode()) % len(self.words) for word in _words(question)}:
            self.words[bucket] += 1
        self.lengths[min(chars.bit_length(), len(self.lengths) - 1)] += 1
        said = answer.strip().casefold()
        if said and len(said) <= CLASS_CHARS and "\n" not in said:
            self.classes[crc32(said.encode()) % len(self.classes)] += 1


def _words(text: str) -> Iterable[str]:
    return (found[0] for found in _WORD.finditer(text.casefold()))


class InputCounter:
    """Counts, and writes files to a folder, which is made where it is missing.

    `boot`: tells the files of this router from those of the one before it.
    """

    def __init__(self, folder: Path, checks: Checks, boot: str) -> None:
        self._folder, self._checks, self._boot, self._numbers = folder, checks, boot, count()
        self._counts: dict[tuple[PointerKey, int], DayCounts] = {}
        self._next, self._next_of = 0.0, dict[PointerKey, float]()
        self._under_way = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Writes what there is every quarter of an hour, until `close`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="input counts")

    async def close(self) -> None:
        """Writes what was counted, and ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.write()

    def offer(self, row: Row, question: bytes, answer: bytes) -> None:
        """Counts an answered request and its answer, if neither its route nor the node has had one counted just now."""
        key, now = (row.tenant, row.route), time.monotonic()
        if self._under_way >= _AT_ONCE or now < self._next or now < self._next_of.get(key, now):
            return
        self._next, self._next_of[key] = now + NODE_EVERY_S, now + EVERY_S
        self._under_way += 1
        done = partial(self._count, key, row.admitted_ms // DAY_MS)
        self._checks.counted(question, answer, streamed=row.streamed, done=done)

    def _count(self, key: PointerKey, day: int, found: tuple[Texts, int] | None) -> None:
        self._under_way -= 1
        if found is not None:
            if (key, day) not in self._counts:
                self._counts[key, day] = DayCounts()
            self._counts[key, day].add(*found[0], found[1])

    async def write(self) -> None:
        """Writes what was counted since the last time, a file for each route and day."""
        counts, self._counts = self._counts, {}
        if counts:
            await asyncio.to_thread(self._write, counts)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_S)
            await self.write()

    def _write(self, counts: dict[tuple[PointerKey, int], DayCounts]) -> None:
        from loradeck.schemas.counts import InputCounts

        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            room = MOST_FILES - sum(1 for _ in self._folder.iterdir())
            for ((tenant, route), day), of in list(counts.items())[: max(0, room)]:
                made = InputCounts(route=route, day=day, **{name: _kept(value) for name, value in vars(of).items()})
                name = f"{self._boot}-{next(self._numbers)}.{tenant}{INPUTS_SUFFIX}"
                write_durably(self._folder / name, made.model_dump_json().encode())
            if room < len(counts):
                log.error("counts of inputs of %d routes are lost: no hub takes them", len(counts) - max(0, room))
        except OSError as error:
            log.error("counts of inputs are lost: the disk: %s", error)


def _kept(value: int | list[int]) -> int | tuple[int, ...]:
    return value if isinstance(value, int) else tuple(value)
