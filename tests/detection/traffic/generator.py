"""Requests of a route: first tries slice by slice, their answers, and what clients send again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from . import callers, changes, durations, outcomes
from .arrivals import arrivals, load_at
from .kinds import KINDS, Kind, fresh_bodies, template_bodies
from .route import DAY, Route, Why
from .streams import Stream, stream

RETRIES = 2
FIRST_DELAY_S, LONGEST_DELAY_S, JITTER = 0.5, 8.0, 0.25
"""As OpenAI's client waits: half a second, doubled each time, at most eight, less up to a quarter of it by chance."""

LONGEST_RETRY_S = RETRIES * (durations.REFUSAL_LIMIT_S + LONGEST_DELAY_S)
"""No try comes later than this after the first."""


@dataclass(frozen=True)
class Requests:
    """Requests in the order of their admission: arrays of one length, read-only.

    `time`, `duration`, `first`: seconds of the admission, from it to the end, and from it to the first token (which
    whole answers show at their end); inf where that never comes. `body`: equal numbers are equal bytes (`bodies.body`).
    `attempt`: 0 for the first, and 1 and 2 for what the client sends again. `why`: a `Why` by its number.
    """

    time: NDArray[np.float64]
    caller: NDArray[np.int32]
    node: NDArray[np.int16]
    body: NDArray[np.int64]
    attempt: NDArray[np.int8]
    streamed: NDArray[np.bool_]
    duration: NDArray[np.float64]
    first: NDArray[np.float64]
    failed: NDArray[np.bool_]
    bad: NDArray[np.bool_]
    why: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, selection: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Requests:
        """The chosen requests: a slice, a mask, or positions in order."""
        return Requests(**{field.name: getattr(self, field.name)[selection] for field in fields(self)})


def requests(route: Route, begin: float, end: float) -> Requests:
    """What is admitted from `begin` (s, 0 at least) until before `end`: the same as that part of a longer span.

    Raises ValueError for a span before the beginning of time. A day at 40 requests a second takes 160 MB, and twice
    that while its hours are put together: `parts` gives them one by one.
    """
    if not 0 <= begin < end:
        raise ValueError("a span begins at 0 or later, and ends after that")
    earliest = max(0.0, begin - LONGEST_RETRY_S)
    numbers = range(int(earliest // route.slice_s), int(-(-end // route.slice_s)))
    return _together([_within(_slice(route, number), begin, end) for number in numbers])


def parts(route: Route, begin: float, end: float) -> Iterator[Requests]:
    """What `requests` gives, in parts of one slice each, which together are the same."""
    at = begin
    while at < end:
        until = min(end, (at // route.slice_s + 1) * route.slice_s)
        yield requests(route, at, until)
        at = until


def _within(whole: Requests, begin: float, end: float) -> Requests:
    """The requests of this span."""
    low, high = np.searchsorted(whole.time, [begin, end])
    return whole[int(low) : int(high)]


def _together(several: list[Requests]) -> Requests:
    """All of them in the order of admission. Equal times keep the order of the slices."""
    if len(several) == 1:
        return several[0]
    arrays = {field.name: np.concatenate([getattr(one, field.name) for one in several]) for field in fields(Requests)}
    order = np.argsort(arrays["time"], kind="stable")
    arrays = {name: values[order] for name, values in arrays.items()}
    for values in arrays.values():
        values.setflags(write=False)
    return Requests(**arrays)


@lru_cache(maxsize=2)
def _slice(route: Route, number: int) -> Requests:
    """The requests whose first try comes within a slice, with all their tries."""
    begin = number * route.slice_s
    generator = stream(route.seed, route.tenant, Stream.ARRIVALS, number)
    time = arrivals(route, begin, generator)
    uniform = stream(route.seed, route.tenant, Stream.REQUESTS, number).random((len(time), 6))
    caller = callers.draw(route, uniform[:, 0], uniform[:, 1])
    kind = np.searchsorted(np.cumsum([share for _, share in KINDS]), uniform[:, 2], side="right").clip(
        0, len(KINDS) - 1
    )
    kind = np.where(changes.asks_new(route, time, uniform[:, 3]), int(Kind.NEW), kind)
    is_template = (uniform[:, 4] < route.templates) & (kind != Kind.NEW)
    is_streamed = uniform[:, 5] < route.streamed
    template = template_bodies(caller, kind, is_streamed, uniform[:, 4] / max(route.templates, 1e-12))
    body = np.where(is_template, template, fresh_bodies(number, kind, is_streamed))
    tries = _Tries(time, caller, body, is_streamed)
    rounds = []
    for attempt in range(RETRIES + 1):
        answers, retry = _answers(route, number, attempt, tries)
        rounds.append(answers)
        tries = tries.again(answers, retry)
    return _together(rounds)


@dataclass(frozen=True)
class _Tries:
    """Requests before they are answered. Callers are those behind a shared key."""

    time: NDArray[np.float64]
    caller: NDArray[np.int64]
    body: NDArray[np.int64]
    streamed: NDArray[np.bool_]

    def again(self, answers: Requests, delay: NDArray[np.float64]) -> _Tries:
        """What clients send again: each request that has failed, after its end and the delay."""
        failed = answers.failed & np.isfinite(answers.duration)
        time = self.time[failed] + answers.duration[failed] + delay[failed]
        order = np.argsort(time, kind="stable")
        return _Tries(time[order], self.caller[failed][order], self.body[failed][order], self.streamed[failed][order])


def _answers(route: Route, number: int, attempt: int, tries: _Tries) -> tuple[Requests, NDArray[np.float64]]:
    """The answers to tries of one kind, and how long each client would wait before it tries again."""
    count = len(tries.time)
    generator = stream(route.seed, route.tenant, Stream.ANSWERS, number, attempt)
    uniform = generator.random((count, 8))
    normal = stream(route.seed, route.tenant, Stream.ANSWERS, number, attempt, 1).standard_normal((count, 2))
    node = np.minimum((uniform[:, 0] * route.nodes).astype(np.int64), route.nodes - 1)
    slow = load_at(route, tries.time) ** durations.LOAD_EXPONENT
    first = durations.seconds(route.first, normal[:, 0], uniform[:, 1]) * slow
    streamed, whole = (durations.seconds(spread, normal[:, 1], uniform[:, 2]) for spread in (route.rest, route.whole))
    rest = np.where(tries.streamed, streamed, whole) * slow

    days = range(int(tries.time[0] // DAY) - 1, int(tries.time[-1] // DAY) + 1) if count else range(0)
    share = outcomes.shares(route, tries.time, tries.caller)
    broken = [event for day in days for event in outcomes.integrations(route, day)]
    is_broken = outcomes.concerns(broken, tries.time, tries.caller)
    incidents = [event for day in days for event in outcomes.incidents(route, day)]
    is_incident = outcomes.concerns(incidents, tries.time, node)
    chance = np.where(is_broken, np.maximum(share, outcomes.INTEGRATION_SHARE), share)
    bad = uniform[:, 3] < chance
    failed = uniform[:, 4] < np.where(is_incident, np.maximum(outcomes.INCIDENT_SHARE, route.errors), route.errors)
    why = np.full(count, int(Why.NONE))
    why[bad & (uniform[:, 3] >= outcomes.means(route)[tries.caller])] = Why.DRIFT
    why[bad & (uniform[:, 3] >= share)] = Why.CALLER
    bad &= ~failed
    why[failed] = np.where(uniform[failed, 4] < route.errors, int(Why.NONE), int(Why.NODE))

    refusal = np.minimum(durations.seconds(durations.REFUSAL, normal[:, 1], uniform[:, 2]), durations.REFUSAL_LIMIT_S)
    draws = changes.Draws(is_concerned=uniform[:, 5], normal=normal[:, 1], uniform=uniform[:, 2])
    answers = changes.Answers(tries.time, tries.caller, node, tries.body, first, rest, refusal, failed, bad, why)
    for change in route.changes:
        answers = changes.apply(route, change, answers, draws)
    delay = min(FIRST_DELAY_S * 2.0**attempt, LONGEST_DELAY_S) * (1 - JITTER * uniform[:, 6])
    duration = answers.duration()
    complete = Requests(
        time=tries.time,
        caller=np.zeros(count, np.int32) if route.is_one_key else tries.caller.astype(np.int32),
        node=node.astype(np.int16),
        body=tries.body,
        attempt=np.full(count, attempt, np.int8),
        streamed=tries.streamed,
        duration=duration,
        first=np.where(tries.streamed, answers.beginning(), duration),
        failed=answers.failed,
        bad=answers.bad,
        why=answers.why.astype(np.int8),
    )
    return complete, delay
