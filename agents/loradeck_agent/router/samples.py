"""Samples of bad answers with their questions, redacted, on this node's disk for as long as their tenant says.

FOLDER/<tenant>/<route>/<release>/<milliseconds since 1970>-<random>.json, each a `schemas.trace.Sample`

Nothing of it is on the way of a request: an answer is looked at once its checks have called it bad, the checker's
process redacts, and a thread writes. What is no longer to be kept is removed at the start, every minute, and as soon as
a tenant takes its consent back.
"""

import asyncio
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from loradeck.rules.quality.sampling import Consent, keeps_sample, sample_stays
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import SampleAsk, SampleRows
from loradeck.schemas.trace import MOST_KEPT, SAMPLES, Sample
from loradeck_agent.router.response_checks import Checks
from loradeck_agent.router.trace import Row, now_ms

log = logging.getLogger(__name__)

FOLDER = "samples"

QUESTION_BYTES = 64 * 2**10
"""A question that is longer is not sampled: it would be held in memory until its answer is judged."""

SWEEP_S = 60.0
"""Seconds between two looks at what is no longer to be kept."""

_AT_ONCE = 8
_RELEASES = 1000

_Texts = tuple[str, str]


class Samples:
    """Keeps samples, gives them out, and removes them.

    Args:
        folder: made when there is something to keep.
        checks: whose process redacts.
        consents: the routes of which samples are kept, and for how long.
    """

    def __init__(self, folder: Path, checks: Checks, consents: Callable[[], Mapping[PointerKey, Consent]]) -> None:
        self._folder, self._checks, self._consents = folder, checks, consents
        self._disk = asyncio.Lock()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._taken: dict[tuple[str, str, str], tuple[int, float]] = {}
        self._refused = False
        self._takes = True

    def start(self) -> None:
        """Removes what is not to be kept, now and from now on, until `close`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="samples")

    def consent_changed(self) -> None:
        """Looks at once at what is no longer to be kept."""
        self._changed.set()

    def hand_over(self) -> None:
        """Takes and removes nothing more: another router does, which is told of consents."""
        self._takes = False
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Writes what was redacted by now, and ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._writes, return_exceptions=True)

    def offer(self, row: Row, question: bytes, answer: bytes) -> None:
        """Takes a bad answer and its question, if there is room and its release has not had its share."""
        if not self._takes or self._under_way >= _AT_ONCE:
            return
        which, now = (row.tenant, row.route, row.release), time.monotonic()
        taken, last = self._taken.pop(which, (0, -math.inf))
        keeps = keeps_sample(taken, now - last)
        self._taken[which] = (taken + 1, now) if keeps else (taken, last)
        if len(self._taken) > _RELEASES:
            del self._taken[next(iter(self._taken))]
        if keeps:
            self._under_way += 1
            done = partial(self._redacted, row)
            self._checks.texts(question, answer, streamed=row.streamed, redacted=True, done=done)

    async def read(self, ask: SampleAsk) -> SampleRows:
        """The newest samples of a route, oldest first; none where its tenant has none kept."""
        consent = self._consents().get((ask.tenant, ask.route), Consent())
        async with self._disk:
            return await asyncio.to_thread(_read, self._folder / ask.tenant / ask.route, ask, consent)

    def _redacted(self, row: Row, texts: _Texts | None) -> None:
        self._under_way -= 1
        if texts is None:
            return
        question, answer = texts
        sample = Sample(
            request=row.request,
            tenant=row.tenant,
            route=row.route,
            release=row.release,
            at_ms=row.admitted_ms,
            fault=row.fault,
            question=question,
            answer=answer,
        )
        task = asyncio.get_running_loop().create_task(self._keep(sample))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _keep(self, sample: Sample) -> None:
        async with self._disk:
            if not self._takes or (sample.tenant, sample.route) not in self._consents():  # the consent may have ended
                return
            try:
                await asyncio.to_thread(_write, self._folder, sample)
            except OSError as error:
                if not self._refused:
                    log.error("samples are lost until the disk takes them: %s", error)
                self._refused = True
            else:
                self._refused = False

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            async with self._disk:
                try:
                    await asyncio.to_thread(sweep, self._folder, self._consents(), now_ms())
                except OSError as error:
                    log.error("samples that are not to be kept are not removed yet: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_S):
                    await self._changed.wait()


# ---- in another thread -----------------------------------------------------------------------------------------


def _write(root: Path, sample: Sample) -> None:
    root.mkdir(mode=0o700, exist_ok=True)
    folder = root / sample.tenant / sample.route / sample.release
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{sample.at_ms:013d}-{secrets.token_hex(4)}.json"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as out:
            out.write(sample.model_dump_json().encode())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    for old in sorted(folder.iterdir())[:-SAMPLES]:
        old.unlink(missing_ok=True)


def _read(folder: Path, ask: SampleAsk, consent: Consent) -> SampleRows:
    now = now_ms()
    files = [path for path in _files(folder, ask.release or "*") if sample_stays(_at_ms(path), consent, now)]
    found: list[Sample] = []
    for path in sorted(files, key=lambda path: path.name, reverse=True):
        if len(found) >= ask.last:
            break
        with suppress(OSError, ValidationError):  # a router that was killed has left a part of one
            found.append(Sample.model_validate_json(path.read_bytes()))
    return SampleRows(ask=ask.ask, samples=tuple(reversed(found)), kept=len(files))


def sweep(root: Path, consents: Mapping[PointerKey, Consent], now: int) -> None:
    """Removes the samples that are not to be kept any more, and the oldest where there are too many.

    Args:
        consents: for how long those of a route are kept; of a route that is not named none are.
        now: milliseconds since 1970 UTC.
    """
    left: list[Path] = []
    for route in root.glob("*/*"):
        consent = consents.get((route.parent.name, route.name), Consent())
        for path in _files(route, "*"):
            if sample_stays(_at_ms(path), consent, now):
                left.append(path)
            else:
                path.unlink(missing_ok=True)
        for folder in (*route.glob("*"), route, route.parent):
            with suppress(OSError):  # one that is not empty stays
                folder.rmdir()
    for path in sorted(left, key=lambda path: path.name)[:-MOST_KEPT]:
        path.unlink(missing_ok=True)


def _files(route: Path, release: str) -> Iterator[Path]:
    return route.glob(f"{release}/*.json")


def _at_ms(path: Path) -> int:
    stamp = path.name.partition("-")[0]
    return int(stamp) if stamp.isdecimal() else 0
