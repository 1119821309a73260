"""Change tickets: which moves carry one, what waits for one, and which a move has.

What goes forward is refused without a ticket where the route asks for tickets. What goes back never is: it says for
ever that a ticket is wanted, and an annotation gives it one. The hub's own moves are made under the route's
standing ticket.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from loradeck.rules.errors import Refused
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import AUTOMATION, MOVES, TICKET, TICKET_WANTED, Draft, Event, EventKind
from loradeck.schemas.route import RouteConfig

TICKETED = MOVES | {EventKind.CANDIDATE_STEP}
"""Events that carry a ticket where their route asks for tickets."""


def refusal(config: RouteConfig, ticket: str | None) -> Refused | None:
    """The refusal of a person's move forward without a ticket; None: it has one, or the route asks for none."""
    if ticket is not None or not config.controls.tickets:
        return None
    return Refused(
        "ticket_required",
        "this route asks for a change ticket",
        fix="name it: --ticket ID; or, on the hub's host, --break-glass REASON, and give it afterwards",
    )


def stamped(drafts: Sequence[Draft], config_of: Callable[[PointerKey], RouteConfig]) -> Sequence[Draft]:
    """The drafts as they are committed: moves without a ticket, where one is asked for, get the standing one where the
    hub makes them by itself, and say that one is wanted otherwise.
    """
    return [_stamped(draft, config_of) for draft in drafts]


def _stamped(draft: Draft, config_of: Callable[[PointerKey], RouteConfig]) -> Draft:
    if draft.kind not in TICKETED or draft.route is None or TICKET in draft.payload:
        return draft
    controls = config_of((draft.tenant, draft.route)).controls
    if not controls.tickets:
        return draft
    standing = controls.standing_ticket if draft.payload.get(AUTOMATION) else None
    said: dict[str, object] = {TICKET: standing} if standing else {TICKET_WANTED: True}
    return draft.model_copy(update={"payload": {**draft.payload, **said}})


def given(events: Iterable[Event]) -> Mapping[str, str]:
    """The tickets of events: event id -> its own, else the newest that an annotation among `events` gives it."""
    found: dict[str, str] = {}
    for event in sorted(events, key=lambda one: one.rev):
        if event.ticket is not None:
            about = str(event.payload["event"]) if event.kind is EventKind.ANNOTATE else event.id
            found[about] = event.ticket
    return found
