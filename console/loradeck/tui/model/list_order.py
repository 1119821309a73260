"""The order of each list, the text that its filter searches, and when it has to be sorted again."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from loradeck.client import loop_words
from loradeck.rules.quality.attention import NEEDS_YOU, urgency
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import JobState
from loradeck.tui.model.feed_state import FeedState
from loradeck.tui.model.packed_rows import TenantBrief
from loradeck.tui.model.selectable_list import Listing

RECENT_S = 3600.0
"""A pointer that moved within this long is worth attention."""

AGAIN_S = 30.0
"""At the latest after this long everything is sorted again, for rows that stop being recent."""

K = TypeVar("K", bound=Hashable)
W = TypeVar("W", bound=Hashable)


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
    """The text that a filter of the tenants searches."""
    brief = state.tenants.briefs[key]
    return f"{key[0]}/{key[1]} {brief.live} {' '.join(brief.flags)}"


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
