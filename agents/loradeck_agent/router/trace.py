"""The trace: a bounded ring of served requests with the release that answered each."""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from loradeck.schemas.link import TraceAsk, TraceRows
from loradeck.schemas.trace import TraceRow
from loradeck_agent.router.votes import Seat

KEPT = 10_000

_SHOWN = (
    "seq",
    "request",
    "tenant",
    "route",
    "release",
    "generation",
    "replica",
    "admitted_ms",
    "status",
    "streamed",
    "checked",
    "bad",
    "fault",
    "judge",
)
"""Names of the fields that a row has unchanged when it is shown outside this process."""


@dataclass(slots=True)
class Row:
    """A row while its request runs. Times are CLOCK_MONOTONIC in nanoseconds; 0 where there was none."""

    request: str
    tenant: str
    route: str
    release: str
    generation: int
    replica: str
    streamed: bool
    admitted_ns: int
    admitted_ms: int
    first_token_ns: int = 0
    finished_ns: int = 0
    events: int = 0
    """Events of its stream so far; most carry a token."""
    status: int = 0
    checked: bool = False
    fault: str = ""
    """The check that its answer failed, which makes it bad; empty: none."""
    judge: str = ""
    """A `Judgement` of the answer by the route's judge; empty: the answer was not drawn, or is not judged yet."""
    sampled: bool = False
    """Its answer is to be checked."""
    plugins: bool = False
    """Whether the route's plug-ins are to look at the answer: there was time for them."""
    asked: tuple[str, ...] = ()
    """The checks that make no answer bad and see only some answers, and that are to see this one."""
    voter: bool = False
    """It is a unit of its own, and no repetition."""
    bin: int = 0
    """The bin of its caller, if it is a unit."""
    overdue_ns: int = 0
    """When a unit is overdue that has not ended; 0: never."""
    seat: Seat | None = None
    """The seat of its key, where a candidate is out and chance gave it its arm."""
    seq: int = 0
    epoch: int = 0
    """With the generation: the move that was in force."""
    parameters: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """What the answer ledger names of the request."""

    @property
    def bad(self) -> bool:
        """Whether a check called its answer bad."""
        return bool(self.fault)

    def wall_ms(self, mono_ns: int) -> int:
        """Wall clock of a monotonic instant, by the admission's pair of clocks."""
        return self.admitted_ms + (mono_ns - self.admitted_ns) // 1_000_000

    def typed(self) -> TraceRow:
        """The row as it is shown outside this process."""
        return TraceRow(
            **{name: getattr(self, name) for name in _SHOWN},
            admitted_mono_ns=self.admitted_ns,
            first_token_ms=self.wall_ms(self.first_token_ns) if self.first_token_ns else None,
            finished_ms=self.wall_ms(self.finished_ns),
        )

    def ledger_line(self) -> str:
        """The row as the answer ledger has it, a `schemas.answer_ledger.LedgerRow` as JSON.

        By hand, which takes a fifth of what pydantic takes: no part of it needs to be escaped, but for the parameters.
        """
        first = self.wall_ms(self.first_token_ns) if self.first_token_ns else "null"
        flags = "".join(f',"{name}":true' for name in ("streamed", "checked", "bad") if getattr(self, name))
        flags += f',"fault":"{self.fault}"' if self.fault else ""
        return (
            f'{{"request":"{self.request}","route":"{self.route}","release":"{self.release}","epoch":{self.epoch},'
            f'"generation":{self.generation},"replica":"{self.replica}","admitted_ms":{self.admitted_ms},'
            f'"first_token_ms":{first},"finished_ms":{self.wall_ms(self.finished_ns)},"status":{self.status}{flags},'
            f'"parameters":{json.dumps(self.parameters)}}}'
        )


class Trace:
    """Rows enter when finished, and judged where a check is due; then `follower` is given each."""

    def __init__(self, kept: int = KEPT, follower: Callable[[Row], None] = lambda row: None) -> None:
        self._follower = follower
        self._rows: deque[Row] = deque(maxlen=kept)
        self._by_request: dict[tuple[str, str, str], Row] = {}
        """(tenant, route, request) -> the newest row of it."""
        self._seq = 0
        self.since_ms = now_ms()
        """Wall clock when it began: requests before that are in no trace."""

    def add(self, row: Row) -> None:
        """Adds a complete row, which pushes the oldest one out of a full ring."""
        self._seq += 1
        row.seq = self._seq
        if len(self._rows) == self._rows.maxlen:
            oldest = self._rows[0]
            if self._by_request.get(key := (oldest.tenant, oldest.route, oldest.request)) is oldest:
                del self._by_request[key]
        self._rows.append(row)
        self._by_request[row.tenant, row.route, row.request] = row
        self._follower(row)

    def after(self, seq: int, tenant: str | None = None) -> list[TraceRow]:
        """Rows completed after `seq`, oldest first; fewer than all of them once the ring has turned over."""
        oldest = self._seq - len(self._rows)
        rows = islice(self._rows, max(0, seq - oldest), None)
        return [row.typed() for row in rows if tenant is None or row.tenant == tenant]

    def newest(self, asked: TraceAsk) -> TraceRows:
        """Reads one pointer's newest rows, oldest first, as they are asked for."""
        found: list[Row] = []
        more = False
        for row in reversed(self._rows):
            if asked.before is not None and row.seq >= asked.before:
                continue
            if (row.tenant, row.route) != (asked.tenant, asked.route):
                continue
            if asked.release in (None, row.release) and asked.request in (None, row.request):
                if more := len(found) == asked.last:
                    break
                found.append(row)
        rows, turned_over = tuple(row.typed() for row in reversed(found)), self._seq > len(self._rows)
        return TraceRows(ask=asked.ask, rows=rows, more=more, turned_over=turned_over, since_ms=self.since_ms)

    def release_of(self, tenant: str, route: str, request: str) -> str | None:
        """The release that answered a pointer's request last; None: it is not remembered here."""
        row = self._by_request.get((tenant, route, request))
        return row.release if row is not None else None


def now_ms() -> int:
    """Wall clock, milliseconds since 1970."""
    return time.time_ns() // 1_000_000
