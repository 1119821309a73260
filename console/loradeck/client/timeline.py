"""Events of the log as a timeline for a post-mortem: Markdown for people, JSON for programs.

Oldest first. An incident or reason that was added to an event later is shown with that event, and the annotation keeps
its own line. The JSON has the events as they are in the log, so that anybody can hash them again.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loradeck.client.times import stamp
from loradeck.rules.moves.chain import ChainCheck
from loradeck.schemas.log import Event, EventKind


@dataclass(frozen=True)
class Timeline:
    """Events, oldest first, and the result of verifying their hashes.

    `scope`: a description of the events that are included. `links`: number of pairs of events that follow each other in
    the log. `broken`: the first fault; None if there is none.
    """

    hub: str
    made_ms: int
    scope: str
    events: tuple[Event, ...]
    links: int
    broken: str | None

    @property
    def chain(self) -> str:
        """The result of the verification, in words."""
        if self.broken is not None:
            return f"BROKEN {self.broken}"
        if not self.events:
            return "no event"
        pairs = len(self.events) - 1
        gaps = "" if self.links == pairs else f"; {pairs - self.links} gaps in the revs, so not each follows the other"
        return f"all {len(self.events):,} events hash as they say, {self.links:,} links between neighbours hold{gaps}"


def timeline(events: Iterable[Event], *, hub: str, made_ms: int, scope: str) -> Timeline:
    """Sorts events by rev and verifies their hashes."""
    ordered = tuple(sorted(events, key=lambda event: event.rev))
    check = ChainCheck()
    check.add(ordered)
    links = sum(later.rev == earlier.rev + 1 for earlier, later in itertools.pairwise(ordered))
    return Timeline(hub, made_ms, scope, ordered, links, check.broken)


def as_json(made: Timeline, name: Callable[[str | None], str]) -> str:
    """The timeline as a JSON document: each event as in the log, with names of its releases and its annotations.

    `name`: gives a release's name from its id.
    """
    notes = _notes(made.events)
    document: dict[str, Any] = {
        "hub": made.hub,
        "made_ms": made.made_ms,
        "scope": made.scope,
        "chain": {"intact": made.broken is None, "links": made.links, "broken": made.broken, "says": made.chain},
        "events": [
            {
                "event": event.model_dump(mode="json"),
                "from": name(event.from_release) if event.from_release else None,
                "to": name(event.to_release) if event.to_release else None,
                "added": [{"by": note.actor, "at_ms": note.at_ms, **_said(note)} for note in notes.get(event.id, ())],
            }
            for event in made.events
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_markdown(made: Timeline, name: Callable[[str | None], str]) -> str:
    """The timeline as a Markdown page with one table. `name`: gives a release's name from its id."""
    notes = _notes(made.events)
    head = ("time (UTC)", "rev", "what", "where", "from > to", "by", "incident", "ticket", "reason")
    rows = [head, tuple("---" for _ in head), *(_row(event, notes.get(event.id, []), name) for event in made.events)]
    lines = [
        f"# Timeline of {_plain(made.hub)}",
        "",
        f"- Made {stamp(made.made_ms)}: {_plain(made.scope)}.",
        f"- Chain: {_plain(made.chain)}.",
        "",
        *("| " + " | ".join(cells) + " |" for cells in rows),
    ]
    return "\n".join(lines) + "\n"


def _row(event: Event, notes: Sequence[Event], name: Callable[[str | None], str]) -> tuple[str, ...]:
    left, to = event.path
    incidents = [event.incident or "", *(note.incident or "" for note in notes)]
    tickets = dict.fromkeys(one.ticket for one in (event, *notes) if one.ticket)
    reasons = [event.reason, *(f"{note.reason} ({note.actor}, {stamp(note.at_ms)})" for note in notes if note.reason)]
    return (
        stamp(event.at_ms),
        str(event.rev),
        _plain(event.kind.value.replace("_", " ")) + (" **OVERRIDE**" if event.override else ""),
        _plain(event.where),
        f"{_plain(name(left)) if left else 'none'} > {_plain(name(to))}" if left != to and to is not None else "",
        _plain(event.actor),
        _plain(", ".join(dict.fromkeys(incident for incident in incidents if incident))),
        _plain(", ".join(tickets) or ("WANTED" if event.wants_ticket else "")),
        "; ".join(_plain(reason) for reason in reasons if reason),
    )


def _said(note: Event) -> dict[str, str | None]:
    return {"incident": note.incident, "ticket": note.ticket, "reason": note.reason}


def _notes(events: Sequence[Event]) -> dict[str, list[Event]]:
    """Annotations by the id of the event that they annotate."""
    notes: dict[str, list[Event]] = {}
    for event in events:
        if event.kind is EventKind.ANNOTATE:
            notes.setdefault(str(event.payload.get("event")), []).append(event)
    return notes


def _plain(text: str) -> str:
    """Escapes foreign text for Markdown: no markup, line break or control character is left."""
    kept = "".join(char if char.isprintable() else " " for char in text)
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#~" else char for char in kept)
