"""Rules of notices: what is worth telling people, when, and when it is over.

A condition is told once it has held for the time of its kind, and once more when it has ended. The alerts of
docs/alerts.yml on a pointer's flags have the same times; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from loradeck.rules.clocks import DAY_MS
from loradeck.rules.quality.attention import alerting
from loradeck.rules.quality.cause import whose
from loradeck.rules.quality.health import ENOUGH, OVERDUE
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.counts import Counts
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.notice import LONGEST, Notice, NoticeKind, Severity
from loradeck.schemas.state import TenantRow


class Kind(NamedTuple):
    """How severe a kind of condition is, how long it must hold before it is told, and its words."""

    severity: Severity
    after_s: float
    words: str


CONDITIONS = {
    NoticeKind.BREACH: Kind(Severity.PAGE, 5, "{figure} of {release} past the route's limit: {whose}"),
    NoticeKind.UNPROVEN: Kind(Severity.PAGE, 60, "a replica is neither proven nor listed; it may serve another one"),
    NoticeKind.SLOW: Kind(Severity.PAGE, 60, "answers of {release} begin or go on later than the route promises"),
    NoticeKind.DRIFT: Kind(Severity.TICKET, 60, "{release} is above a promise that only alerts"),
    NoticeKind.REFUSED: Kind(Severity.PAGE, 60, "routers refuse {refused:.0%} of the requests for {release}"),
    NoticeKind.BURNING: Kind(Severity.PAGE, 0, "its error budget is gone within days: {burning}"),
    NoticeKind.ACTED_ALONE: Kind(Severity.TICKET, 0, "somebody acted alone on the hub's host where two are asked for"),
    NoticeKind.PROMOTE_FAILED: Kind(Severity.TICKET, 0, "the last promote failed, and nobody has answered it"),
    NoticeKind.NO_WAY_BACK: Kind(Severity.TICKET, 3600, "each release beneath {release} is ruled out: R has no target"),
    NoticeKind.NODE_LOST: Kind(Severity.PAGE, 0, "not heard for longer than its TTL"),
    NoticeKind.CERTIFICATE_ENDS: Kind(Severity.TICKET, 0, "its certificate ends on {day}, and was not renewed"),
    NoticeKind.RETENTION_ENDS: Kind(Severity.TICKET, 0, "rows of it may be kept until {day}"),
    NoticeKind.EXPECTED: Kind(Severity.TICKET, 0, "from {day} on its adapters may be wrong"),
    NoticeKind.DEPRECATED: Kind(Severity.TICKET, 0, "its live release is not promoted any more from {day} on"),
}
"""Conditions that begin and end, by kind."""

_FIGURES = {"bad": "bad answers", "errors": "failed requests", OVERDUE: "overdue answers"}

FLAGS = {
    "BAD": NoticeKind.BREACH,
    "UNPRVN": NoticeKind.UNPROVEN,
    "SLOW": NoticeKind.SLOW,
    "FAILED": NoticeKind.PROMOTE_FAILED,
    "NOPRIOR": NoticeKind.NO_WAY_BACK,
    "DRIFT": NoticeKind.DRIFT,
    "GLASS": NoticeKind.ACTED_ALONE,
}
"""Flag of a pointer -> kind of the condition."""

REFUSED_SHARE = 0.05
"""Share of a pointer's requests of the last minute above which it is told that routers refuse them, where its route
promises none.
"""

PASSING = (NoticeKind.REFUSED, NoticeKind.BURNING, NoticeKind.DRIFT)
"""Kinds of a pointer's conditions that are over as time goes by, and not only when something happens."""

DATED = frozenset({NoticeKind.CERTIFICATE_ENDS, NoticeKind.RETENTION_ENDS, NoticeKind.EXPECTED, NoticeKind.DEPRECATED})
"""Kinds whose time is known beforehand."""

NEAR_MS = 14 * DAY_MS
"""How long before its time something dated is told, milliseconds."""

MOST = 10
"""Notices of one kind that are sent at once. Where more are due, one tells how many there are."""

RETRIES_S = (5, 15, 60, 300, 900)
"""Pauses after failed attempts, in seconds; the last one again and again."""

GIVEN_UP_S = 86_400
"""Seconds after which a notice is not tried any more."""


class Subject(NamedTuple):
    """What a condition is about: a kind with a pointer, a node, a tenant's dataset, or the hub."""

    kind: NoticeKind
    tenant: str = ""
    route: str = ""
    node: str = ""
    dataset: str = ""

    @property
    def where(self) -> str:
        """The node, the pointer, the dataset or the hub, for a person."""
        if self.dataset:
            return f"dataset {self.tenant}/{self.dataset}"
        return self.node or "/".join(filter(None, (self.tenant, self.route))) or "the hub"

    @property
    def command(self) -> str:
        """What to type first."""
        if self.dataset:
            return f"loradeck dataset ls --tenant {self.tenant}"
        if self.node:
            return f"loradeck node show {self.node}"
        if self.tenant and not self.route:
            return f"loradeck freshness {self.tenant}"
        return f"loradeck open {self.tenant} {self.route}" if self.tenant else "loradeck --once"


class Dated(NamedTuple):
    """Something whose time is known, in milliseconds since 1970. `why`: what a person has said about it."""

    subject: Subject
    at_ms: int
    why: str = ""


def near(dated: Iterable[Dated], now_ms: int) -> list[Dated]:
    """Says what comes within two weeks, or has come; of several about one subject the first."""
    found: dict[Subject, Dated] = {}
    for one in sorted(dated, key=lambda one: one.at_ms):
        if now_ms >= one.at_ms - NEAR_MS:
            found.setdefault(one.subject, one)
    return list(found.values())


def coming(near: Iterable[Dated]) -> dict[Subject, str]:
    """The conditions that dated things are, each with its words."""
    found = {}
    for one in near:
        day = f"{datetime.fromtimestamp(one.at_ms / 1000, UTC):%Y-%m-%d}"
        found[one.subject] = CONDITIONS[one.subject.kind].words.format(day=day) + (f": {one.why}" if one.why else "")
    return found


def refused_limit(row: TenantRow) -> float:
    """Returns the share of a pointer's requests, 0 to 1, above which it is told that routers refuse them."""
    return REFUSED_SHARE if row.refusals_promised is None else row.refusals_promised


def refused_share(minute: Counts, limit: float) -> float | None:
    """Returns the share of a minute's requests that were refused, 0 to 1; None where there were too few to say.

    Of fewer than `ENOUGH` it is said only where the lower 95 % bound is above the limit: a quiet route that refuses
    all of its callers is told, and one that refused two of twenty is not.
    """
    if minute.attempted >= ENOUGH or wilson(minute.refused, minute.attempted)[0] > limit:
        return minute.refused_share
    return None


def conditions(row: TenantRow) -> dict[Subject, str]:
    """The conditions of a pointer, each with its words."""
    release = row.live.label if row.live is not None else "nothing"
    limit, burning = refused_limit(row), ", ".join(row.burning)
    refused = refused_share(row.minute, limit) or 0.0
    others = ((NoticeKind.REFUSED, refused > limit), (NoticeKind.BURNING, bool(burning)))
    kinds = [*(FLAGS[flag] for flag in alerting(row)), *(kind for kind, holds in others if holds)]
    fields = {
        "release": release,
        "refused": refused,
        "burning": burning,
        "figure": _FIGURES.get(row.cause.figure, row.cause.figure),
        "whose": whose(row.cause.verdict, row.cause.who),
    }
    return {Subject(kind, *row.key): CONDITIONS[kind].words.format(**fields) for kind in kinds}


@dataclass
class _Held:
    since_ms: int
    words: str
    told: bool = False


@dataclass
class Conditions:
    """The conditions that hold. Told ones are remembered, so that their end is told as well.

    `told`: notices that an earlier run of the hub has sent and whose end it has not seen.
    """

    _held: dict[Subject, _Held] = field(default_factory=dict)

    @classmethod
    def after(cls, told: Iterable[Notice]) -> Conditions:
        """Begins with the notices of an earlier run, oldest first."""
        held: dict[Subject, _Held] = {}
        for notice in told:
            subject = Subject(notice.kind, *notice.subject)
            if notice.over:
                held.pop(subject, None)
            elif notice.kind in CONDITIONS and not notice.more:
                held[subject] = _Held(notice.at_ms, notice.title.removeprefix(f"{subject.where}: "), told=True)
        return cls(held)

    def of(self, tenant: str, route: str) -> set[Subject]:
        """The conditions of a pointer that held when it was last looked at."""
        return {Subject(kind, tenant, route) for kind in (*FLAGS.values(), *PASSING)} & self._held.keys()

    def passing(self) -> list[PointerKey]:
        """The pointers of conditions that are over as time goes by."""
        return [(one.tenant, one.route) for one in self._held if one.kind in PASSING]

    def of_nodes(self) -> list[Subject]:
        """The conditions of nodes that held when they were last looked at."""
        return [subject for subject in self._held if subject.kind is NoticeKind.NODE_LOST]

    def dated(self) -> list[Subject]:
        """The conditions whose time is known beforehand that held when they were last looked at."""
        return [subject for subject in self._held if subject.kind in DATED]

    def changed(self, before: Iterable[Subject], now: Mapping[Subject, str], now_ms: int) -> list[Notice]:
        """Takes in what holds now in the place of what did before; returns the notices of what has ended."""
        over = []
        for subject in before:
            held = self._held.get(subject)
            if held is not None and subject not in now:
                del self._held[subject]
                if held.told:
                    over.append(_notice(subject, held, now_ms, over=True))
        for subject, words in now.items():
            self._held.setdefault(subject, _Held(now_ms, words)).words = words
        return over

    def due(self, now_ms: int) -> list[Notice]:
        """The notices of what has held for long enough and was not told yet; they count as told."""
        due = []
        for subject, held in self._held.items():
            if not held.told and now_ms - held.since_ms >= 1000 * CONDITIONS[subject.kind].after_s:
                held.told = True
                due.append(_notice(subject, held, now_ms))
        return due


def _notice(subject: Subject, held: _Held, now_ms: int, *, over: bool = False) -> Notice:
    return Notice(
        id=f"{subject.kind}-{subject.where}-{held.since_ms}{'-over' if over else ''}",
        kind=subject.kind,
        severity=CONDITIONS[subject.kind].severity,
        at_ms=now_ms,
        over=over,
        tenant=subject.tenant or None,
        route=subject.route or None,
        node=subject.node or None,
        dataset=subject.dataset or None,
        title=f"{'over: ' if over else ''}{subject.where}: {held.words}",
        command=subject.command,
    )


def grouped(notices: Sequence[Notice]) -> list[Notice]:
    """At most `MOST` notices of each kind; beyond that the first tells how many there are in all."""
    out = []
    kinds: dict[tuple[NoticeKind, bool], list[Notice]] = {}
    for notice in notices:
        kinds.setdefault((notice.kind, notice.over), []).append(notice)
    for every in kinds.values():
        if len(every) > MOST:
            first, named = every[0], ", ".join(Subject(one.kind, *one.subject).where for one in every[:MOST])
            detail = f"{named} and {len(every) - MOST} more"
            title = f"{first.title} (and the same of {len(every) - 1} more)"
            alone = {"id": f"{first.id}+{len(every) - 1}", "title": title[:LONGEST], "detail": detail[:LONGEST]}
            every = [first.model_copy(update={**alone, "more": len(every) - 1, "command": "loradeck --once"})]
        out += every
    return out


def next_attempt_ms(now_ms: int, attempts: int, at_ms: int) -> int | None:
    """When a delivery is tried again after so many failed attempts; None: not any more.

    `at_ms`: the notice's own time.
    """
    pause_ms = 1000 * RETRIES_S[min(attempts, len(RETRIES_S)) - 1]
    return None if now_ms + pause_ms - at_ms > 1000 * GIVEN_UP_S else now_ms + pause_ms
