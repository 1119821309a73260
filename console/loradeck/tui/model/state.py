"""The state of the console's screens: lists with their order and selection, marks, and moves of its own.

It adds a person's doings to `FeedState`. Knows no toolkit and sends nothing.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel

from loradeck.client.idempotency import new_key
from loradeck.client.state_list import StateRead
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.feed import FeedEvents, FeedJobs, FeedMessage
from loradeck.schemas.freshness import LoopRow
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import Job, PrepareSpec
from loradeck.schemas.log import Event
from loradeck.schemas.state import TenantRow
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.keys.personal_keys import DEFAULT, Keys
from loradeck.tui.model import lists as order
from loradeck.tui.model.feed_state import Changed, FeedState
from loradeck.tui.model.lists import Arranging, Listing, Ordered, RowFilter, Sort
from loradeck.tui.model.registry import DataEntry, Gate
from loradeck.tui.model.review_draft import Candidate, Reviewing
from loradeck.tui.model.sent_moves import OPEN, Move, OwnMove, Phase, Tell

FREEZE_S = 2.0
"""The order of rows stays as it is for this long after a key."""

OVERDUE_S = 10.0
"""Seconds that a move may be under way before missing acknowledgements are called NOT DONE."""

OWN_KEPT = 200
"""Moves of this console that are remembered, and in any case all that one key sent."""

ORDERED = frozenset({Screen.NODES, Screen.JOBS, Screen.GATES, Screen.CAMPAIGNS})
"""Screens whose rows accept orders or signatures."""

K = TypeVar("K", bound=Hashable)
Rank = Callable[[FeedState, K], object]
Text = Callable[[FeedState, K], str]


@dataclass
class ConsoleState(FeedState):
    """The hub's last state with a person's selection, marks, filters and sent moves."""

    keys: Keys = DEFAULT
    """The keys of the person at this console, for hints."""

    context: str = ""
    """The hub's name here, shown until the hub has sent its own."""

    production: bool = False
    read_only: str | None = None
    """Why nothing may be changed from here; None: it may."""

    make_key: Callable[[], str] = new_key
    """Makes the idempotency key of a request."""

    screen: Screen = Screen.TENANTS
    sort: Sort = Sort.ATTENTION
    tenant_list: Listing[PointerKey] = field(default_factory=Listing)
    node_list: Listing[str] = field(default_factory=Listing)
    job_list: Listing[str] = field(default_factory=Listing)
    event_list: Listing[int] = field(default_factory=Listing)
    gate_list: Listing[int] = field(default_factory=Listing)
    adapter_list: Listing[str] = field(default_factory=Listing)
    data_list: Listing[str] = field(default_factory=Listing)
    capacity_list: Listing[str] = field(default_factory=Listing)
    loop_list: Listing[PointerKey] = field(default_factory=Listing)
    campaign_list: Listing[str] = field(default_factory=Listing)
    reviews: dict[Candidate, Reviewing] = field(default_factory=dict)
    """Candidates whose answers were looked at here."""

    marks: list[PointerKey] = field(default_factory=list)
    own: list[OwnMove] = field(default_factory=list)
    """Moves sent by this console, oldest first."""

    tell: Tell | None = None
    order_tell: Tell | None = None
    """The last order to a node, a job or a campaign, or signature, until esc."""

    dismissed: set[str] = field(default_factory=set)
    """Events whose rollback panel was closed with esc."""

    last_key_at: float | None = None

    def __post_init__(self) -> None:
        def ordered(of: Listing[K], rows: Callable[[], Mapping[K, Any]], by: Rank[K], text: Text[K]) -> Ordered[K]:
            return Ordered(of, rows, lambda: partial(by, self), partial(text, self))

        kept, tenant_text = self.registry, partial(order.tenant_text, self)
        self._arranging = Arranging[Screen](
            {
                Screen.TENANTS: Ordered(
                    self.tenant_list, lambda: self.tenants, lambda: order.tenants(self, self.sort), tenant_text
                ),
                Screen.NODES: ordered(self.node_list, lambda: self.nodes, order.nodes, order.node_text),
                Screen.JOBS: ordered(self.job_list, lambda: self.jobs, order.jobs, order.job_text),
                Screen.GATES: ordered(self.gate_list, lambda: kept.gates, order.newest_first, order.gate_text),
                Screen.ADAPTERS: ordered(self.adapter_list, lambda: kept.adapters, order.adapters, order.adapter_text),
                Screen.EVENTS: ordered(
                    self.event_list, lambda: self.listed_events, order.newest_first, order.event_text
                ),
                Screen.DATA: ordered(self.data_list, lambda: kept.data, order.data, order.data_text),
                Screen.CAPACITY: ordered(
                    self.capacity_list, lambda: kept.capacity, order.capacity, order.capacity_text
                ),
                Screen.ML: ordered(self.loop_list, lambda: kept.loop, order.loop, order.loop_text),
                Screen.CAMPAIGNS: ordered(
                    self.campaign_list, lambda: kept.campaigns, order.campaigns, order.campaign_text
                ),
            }
        )

    # ---- the feed ------------------------------------------------------------------------------------------

    def loading(self, state: StateRead) -> Iterator[None]:
        """Load a full list in steps of a few milliseconds, and put the lists in order with the last."""
        yield from super().loading(state)
        self._arranging.due(*Screen)
        self.marks = [key for key in self.marks if key in self.tenants]
        self.arrange()

    def apply(self, message: FeedMessage) -> Changed:
        """Apply one message of the feed, in the order they came."""
        changed = super().apply(message)
        match message:
            case FeedJobs():
                self._arranging.due(Screen.JOBS)
            case FeedEvents():
                self._arranging.due(Screen.EVENTS)
        if self.marks and changed.tenants:
            self.marks = [key for key in self.marks if key in self.tenants]
        return changed

    # ---- order, selection, marks -----------------------------------------------------------------------------

    @property
    def row(self) -> TenantRow | None:
        """The selected pointer."""
        return self.tenants.get(self.tenant_list.selected) if self.tenant_list.selected else None

    def touched(self) -> None:
        """A key was pressed."""
        self.last_key_at = self.clock()

    @property
    def frozen(self) -> bool:
        """Whether the order of rows is held, as it is for a while after a key."""
        return self.last_key_at is not None and self.clock() - self.last_key_at < FREEZE_S

    def next_sort(self) -> None:
        """Sort the tenants by the next thing, at once; the selection stays on its row."""
        turns = list(Sort)
        self.sort = turns[(turns.index(self.sort) + 1) % len(turns)]
        self.arrange(force=True)

    def arrange(self, *, force: bool = False) -> None:
        """Put every list in its order.

        A list of which nothing has changed that decides its order is not sorted again, except twice a minute, for
        rows that stop being recent.
        """
        for which, rows in ((Screen.TENANTS, self.tenants), (Screen.NODES, self.nodes)):
            if rows.news:
                rows.news = False
                self._arranging.due(which)
        self._arranging.arrange(self.clock(), frozen=self.frozen and not force, every=force)

    def fetched_older(self, events: Iterable[Event]) -> None:
        """The hub has sent the events of the pointer whose events are listed."""
        self.older = {event.rev: event for event in events if event.rev not in self.events}
        self._arranging.due(Screen.EVENTS)
        self.arrange(force=True)

    def fetched(self, which: Screen) -> None:
        """Note that a screen's rows have come from the hub."""
        self.fetches[which].at = self.clock()
        self.fetches[which].trouble = ""
        self._arranging.due(which)

    @property
    def listing(self) -> Listing[PointerKey] | Listing[str] | Listing[int]:
        """The list of the screen in front."""
        return self.list_of(self.screen)

    def rows_of(self, which: Screen) -> Mapping[Any, Any]:
        """The rows of a screen by their keys, as the hub sent them last."""
        return self._arranging.lists[which].rows()

    def list_of(self, which: Screen) -> Listing[PointerKey] | Listing[str] | Listing[int]:
        """The list of a screen."""
        return self._arranging.lists[which].listing

    def set_filter(self, filter_: RowFilter) -> None:
        """Filter the list in front, at once. Events that were fetched for one pointer go with its filter."""
        self.listing.filter = filter_
        if self.screen is Screen.EVENTS:
            self.older = {}
        self.arrange(force=True)

    def toggle_mark(self) -> None:
        """Mark the selected row, or unmark it."""
        key = self.tenant_list.selected
        if key is None:
            return
        if key in self.marks:
            self.marks.remove(key)
        else:
            self.marks.append(key)

    def toggle_marks(self) -> None:
        """Mark every row that is shown; when all of them are marked, unmark them."""
        shown = self.tenant_list.order
        marked, listed = set(self.marks), set(shown)
        if listed <= marked:
            self.marks = [key for key in self.marks if key not in listed]
        else:
            self.marks += [key for key in shown if key not in marked]

    @property
    def selected(self) -> BaseModel | None:
        """The selected row of the list in front, as the hub sent it."""
        row = self.rows_of(self.screen).get(self.listing.selected)
        return row.record if isinstance(row, Gate | DataEntry) else row

    @property
    def identity(self) -> str | None:
        """The name of the selection for a command: of a node, a job, an event, a route, a release, or a digest."""
        selected = self.listing.selected
        match self.rows_of(self.screen).get(selected):
            case TenantRow(live=live):
                return live.id if live is not None else None
            case Event(id=event):
                return event
            case Gate(result=result):
                return result.release
            case CapacityRow(name=name):
                return name
            case LoopRow(tenant=tenant, route=route):
                return f"{tenant} {route}"
        return selected if isinstance(selected, str) else None

    # ---- own moves -------------------------------------------------------------------------------------------

    def sent(self, *moves: Move) -> list[OwnMove]:
        """Record moves that are about to be sent, those of one key together."""
        now, now_ms = self.clock(), self.hub_now_ms or int(time.time() * 1000)
        owns = [OwnMove(move, sent_at=now, sent_ms=now_ms) for move in moves]
        if len(owns) > 1:
            for own in owns:
                own.together = tuple(owns)
        self.own += owns
        del self.own[: -max(OWN_KEPT, len(owns))]
        return owns

    def own_move(self, row: TenantRow) -> OwnMove | None:
        """This console's newest move of a pointer, if nothing else has moved it since."""
        for own in reversed(self.own):
            if own.move.row != row.key or own.phase in (Phase.REFUSED, Phase.NOT_SENT):
                continue
            if own.move.kind in (Action.ANNOTATE, Action.HOLD):
                continue  # they move nothing
            if own.phase in OPEN or (own.generation or 0) > row.pointer.generation:
                return own
            return own if own.event is not None and own.event.id == row.pointer.last_move else None
        return None

    def preparing(self, row: TenantRow) -> Job | None:
        """The prepare that is pending on a pointer, as far as the hub has sent it."""
        return self.jobs.get(row.preview.prepare) if row.preview.prepare is not None else None

    def newest_prepare(self, row: TenantRow) -> Job | None:
        """The newest prepare of a pointer among the jobs that the hub lists."""
        prepares = [job for job in self.jobs.values() if isinstance(job.spec, PrepareSpec) and job.tenant == row.tenant]
        here = [job for job in prepares if isinstance(job.spec, PrepareSpec) and job.spec.route == row.route]
        return max(here, key=lambda job: job.created_ms, default=None)

    @property
    def many_open(self) -> str | None:
        """What may still happen on many pointers without our knowing: 'rewind', or 'undo'; None: nothing."""
        return next((own.move.kind.value for own in self.own if not own.move.tenant and own.phase in OPEN), None)

    def is_finished(self, own: OwnMove) -> bool:
        """Tells whether nothing more is to come of a move of ours."""
        if own.phase in OPEN:
            return False
        if own.phase is Phase.PENDING:
            row = self.tenants.get(own.move.row)
            return row is None or "PREP" not in row.flags
        return all(self._is_finished(key, generation) for key, generation in own.moved.items())

    def _is_finished(self, key: PointerKey, generation: int) -> bool:
        row = self.tenants.get(key)
        if row is None or row.pointer.generation > generation:
            return True
        return row.pointer.generation == generation and row.settled

    @property
    def unfinished(self) -> list[OwnMove]:
        """Own moves of which more is to come."""
        return [own for own in self.own if not self.is_finished(own)]
