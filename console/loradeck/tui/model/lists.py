"""Lists of rows, whose selection follows the row and not the line: their filters, order, and when they are sorted."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from loradeck.client import loop_words
from loradeck.rules.quality.attention import NEEDS_YOU, urgency
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import JobState
from loradeck.tui.model.feed_state import FeedState
from loradeck.tui.model.packed_rows import TenantBrief

RECENT_S = 3600.0
"""A pointer that moved within this long is worth attention."""

AGAIN_S = 30.0
"""At the latest after this long everything is sorted again, for rows that stop being recent."""

K = TypeVar("K", bound=Hashable)
W = TypeVar("W", bound=Hashable)


class FilterError(ValueError):
    """The filter is no regular expression; the one before it stays."""


@dataclass(frozen=True)
class RowFilter:
    """A regular expression over what a row shows; `!` in front keeps the rows that do not match."""

    text: str = ""
    pattern: re.Pattern[str] | None = None
    inverse: bool = False

    @classmethod
    def parse(cls, text: str) -> RowFilter:
        """Raises: FilterError."""
        text = text.strip()
        body = text.removeprefix("!")
        if not body:
            return cls()
        try:
            pattern = re.compile(body, re.IGNORECASE)
        except re.error as error:
            raise FilterError(f"{body!r} is no regular expression: {error}") from None
        return cls(text, pattern, text.startswith("!"))

    def keeps(self, haystack: str) -> bool:
        """Tells whether a row with this text is shown."""
        if self.pattern is None:
            return True
        return (self.pattern.search(haystack) is None) == self.inverse


@dataclass
class Listing(Generic[K]):
    """What one screen lists. `order` holds the keys of the shown rows from top to bottom."""

    order: list[K] = field(default_factory=list)
    selected: K | None = None
    filter: RowFilter = field(default_factory=RowFilter)
    total: int = 0
    _at: int = 0

    @property
    def index(self) -> int | None:
        """Line of the selected row; None when nothing is selected or it is not shown."""
        if self.selected is None:
            return None
        if self._at < len(self.order) and self.order[self._at] == self.selected:
            return self._at  # where it was the last time
        try:
            self._at = self.order.index(self.selected)
        except ValueError:
            return None
        return self._at

    def arrange(
        self, rows: Iterable[K], *, by: Callable[[K], object], haystack: Callable[[K], str], frozen: bool
    ) -> None:
        """Take in the rows there are now.

        While `frozen` rows stay on their lines, new ones come last and only rows that are gone leave.
        """
        present = list(rows)
        self.total = len(present)
        if self.filter.pattern is not None:
            present = [key for key in present if self.filter.keeps(haystack(key))]
        if frozen and self.order:
            kept = set(present)
            order = [key for key in self.order if key in kept]
            shown = set(order)
            order += sorted((key for key in present if key not in shown), key=by)  # type: ignore[arg-type]
        else:
            order = sorted(present, key=by)  # type: ignore[arg-type]
        before = self.index
        self.order = order
        if self.selected is None or self.index is None:
            self.selected = self.order[min(before or 0, len(order) - 1)] if order else None

    def step(self, by: int) -> None:
        """Move the selection by lines, stopping at the ends."""
        if self.order:
            at = (self.index or 0) + by
            self._at = max(0, min(at, len(self.order) - 1))
            self.selected = self.order[self._at]

    def jump(self, to: int) -> None:
        """Select a line; negative ones count from the end."""
        if self.order:
            self.selected = self.order[to]

    def choose(self, key: K) -> bool:
        """Select a row by its key. Returns False when it is not shown."""
        if key not in self.order:
            return False
        self.selected = key
        return True


def hidden(marks: Iterable[K], shown: Sequence[K]) -> list[K]:
    """Marked rows that a filter hides."""
    visible = set(shown)
    return [key for key in marks if key not in visible]


class Sort(StrEnum):
    """The sort order of the tenants. Only figures that are known of every row, looked at or not."""

    ATTENTION = "attention"
    TENANT = "tenant"
    LIVE = "live release"
    MOVED = "newest move"


@dataclass(frozen=True)
class Ordered(Generic[K]):
    """A list with the source of its rows.

    Args:
        rows: the rows there are now, by their keys.
        by: makes the sort key, once for each time the list is sorted.
        text: the text of a row that a filter searches.
    """

    listing: Listing[K]
    rows: Callable[[], Mapping[K, Any]]
    by: Callable[[], Callable[[K], object]]
    text: Callable[[K], str]

    def arrange(self, *, frozen: bool) -> None:
        """Puts the list in order, or only takes in what has come and gone while it is frozen."""
        self.listing.arrange(self.rows(), by=self.by(), haystack=self.text, frozen=frozen)


class Arranging(Generic[W]):
    """Sorts the lists whose order, or whose filtered rows, may have changed.

    A list that was arranged while the order was frozen is sorted when it thaws.
    """

    def __init__(self, lists: Mapping[W, Ordered[Any]]) -> None:
        self.lists = lists
        self._due = set(lists)
        self._frozen: set[W] = set()
        self._at = 0.0

    def due(self, *which: W) -> None:
        """These lists are to be put in order."""
        self._due.update(which)

    def arrange(self, now: float, *, frozen: bool, every: bool = False) -> None:
        """Put the lists that are due in order. `now`: seconds; `every`: all of them, due or not."""
        if every or now - self._at > AGAIN_S:
            self._due.update(self.lists)
        due = set(self._due)
        self._due.clear()
        if frozen:
            self._frozen |= due
        else:
            due |= self._frozen
            self._frozen.clear()
        if due:
            self._at = now
        for which in due:
            self.lists[which].arrange(frozen=frozen)


# ---- ranks -------------------------------------------------------------------------------------------------


def tenants(state: FeedState, sort: Sort) -> Callable[[PointerKey], tuple[int | str, ...]]:
    """The sort key of the tenants."""
    briefs, now_ms = state.tenants.briefs, state.hub_now_ms
    match sort:
        case Sort.ATTENTION:
            return lambda key: (attention(briefs[key], now_ms), -briefs[key].harm, *key)
        case Sort.TENANT:
            return lambda key: key
        case Sort.LIVE:
            return lambda key: (briefs[key].live, *key)
        case Sort.MOVED:
            return lambda key: (-(briefs[key].moved_ms or 0), *key)


def attention(brief: TenantBrief, now_ms: int | None) -> int:
    """Rank of a row: bad, unproven, moved within an hour, the rest."""
    rank = urgency(brief.flags) if brief.flags else len(NEEDS_YOU)
    if rank < len(NEEDS_YOU):
        return rank
    moved = brief.moved_ms
    recent = moved is not None and now_ms is not None and now_ms - moved < RECENT_S * 1000
    return rank if recent else rank + 1


def nodes(state: FeedState, name: str) -> tuple[bool, str]:
    """Lost ones first."""
    return (not state.nodes.briefs[name].lost, name)


def jobs(state: FeedState, job_id: str) -> tuple[int, int]:
    """Running, queued, ended; the newest first."""
    job = state.jobs[job_id]
    running = job.state in (JobState.RUNNING, JobState.ASSIGNED)
    order = 0 if running else 1 if job.state is JobState.QUEUED else 2
    return (order, -(job.ended_ms or job.started_ms or job.created_ms))


def newest_first(_: FeedState, number: int) -> int:
    """By rev or number."""
    return -number


def adapters(state: FeedState, digest: str) -> tuple[str, str, int]:
    """By tenant and name; the newest version first."""
    version = state.registry.adapters[digest]
    return (version.manifest.tenant, version.manifest.name, -version.version)


def data(state: FeedState, digest: str) -> tuple[str, str, str, str]:
    """By tenant, kind and name."""
    entry = state.registry.data[digest]
    return (entry.manifest.tenant, entry.kind, entry.manifest.name, digest)


def capacity(state: FeedState, key: str) -> tuple[bool, str]:
    """Sorts pools before nodes, and each by name."""
    row = state.registry.capacity[key]
    return (not row.pool, row.name)


def loop(state: FeedState, key: PointerKey) -> tuple[bool, PointerKey]:
    """Sorts routes for which something is to do before the others, and each by name."""
    return (loop_words.next_step(state.registry.loop[key]) == "-", key)


def campaigns(state: FeedState, name: str) -> tuple[int, str]:
    """Sorts campaigns by their beginning, the newest first."""
    return (-state.registry.campaigns[name].started_ms, name)


# ---- what a filter finds -----------------------------------------------------------------------------------


def tenant_text(state: FeedState, key: PointerKey) -> str:
    """The text that a filter of the tenants searches: flags in the console's words, and as `--once` names them."""
    brief = state.tenants.briefs[key]
    return f"{key[0]}/{key[1]} {brief.live} {brief.why} {' '.join(brief.flags)}"


def node_text(state: FeedState, name: str) -> str:
    """The text that a filter of the nodes searches."""
    return state.nodes.briefs[name].text


def job_text(state: FeedState, job_id: str) -> str:
    """The text that a filter of the jobs searches."""
    job = state.jobs[job_id]
    return f"{job.id} {job.kind} {job.tenant} {job.state.value} {job.node or ''} {job.says}"


def event_text(state: FeedState, rev: int) -> str:
    """The text that a filter of the events searches."""
    event = state.listed_events[rev]
    return (
        f"{event.kind.value} {event.tenant}/{event.route or ''} {event.actor} {event.reason} "
        f"{event.incident or ''} {state.name_of(event.to_release)}"
    )


def gate_text(state: FeedState, seq: int) -> str:
    """The text that a filter of the gate results searches."""
    gate = state.registry.gates[seq]
    checks = " ".join(check.name for check in gate.result.checks)
    return (
        f"{gate.tenant}/{gate.route} {state.name_of(gate.result.release)} "
        f"{'passed' if gate.result.passed else 'failed'} {checks} {gate.by}"
    )


def adapter_text(state: FeedState, digest: str) -> str:
    """The text that a filter of the adapter versions searches."""
    version = state.registry.adapters[digest]
    manifest = version.manifest
    return f"{manifest.tenant}/{manifest.name} v{version.version} {version.release} {digest} {version.created_by}"


def data_text(state: FeedState, digest: str) -> str:
    """The text that a filter of datasets and suites searches."""
    entry = state.registry.data[digest]
    provenance = entry.manifest.provenance
    return (
        f"{entry.manifest.tenant}/{entry.manifest.name} {entry.kind} {provenance.origin.value} {digest} "
        f"{provenance.licence_class} {provenance.consent} {' '.join(provenance.purpose)}"
    )


def capacity_text(state: FeedState, key: str) -> str:
    """The text that a filter of pools and nodes searches."""
    return f"{key} {state.registry.capacity[key].of}"


def loop_text(state: FeedState, key: PointerKey) -> str:
    """The text that a filter of the ml screen searches."""
    row = state.registry.loop[key]
    said = f"{loop_words.signals(row)} {row.remedy.value} {loop_words.step(row)} {row.frozen}"
    return f"{key[0]}/{key[1]} {row.label} {said}"


def campaign_text(state: FeedState, name: str) -> str:
    """The text that a filter of the campaigns searches: their routes, too."""
    one = state.registry.campaigns[name]
    return f"{name} {one.state.value} {one.by} {one.why} {' '.join(one.units)}"
