"""Labels of releases that no row describes: asked for once, and again only where the hub did not answer."""

from __future__ import annotations

from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import SeededHub

from loradeck.client.errors import HubUnreachable
from loradeck.schemas.feed import FeedEvents
from loradeck.schemas.log import EventKind
from loradeck.schemas.state import ReleaseView
from loradeck.tui.hub.queries import Labels
from loradeck.tui.key_checks.verdict import Refuse
from loradeck.tui.lines.preview import preview_lines
from loradeck.tui.model.state import ConsoleState

RETIRED = seed.view("dune", "v77")


class Registry(SeededHub):
    """Answers `failures` times that it is away, then what it knows."""

    failures = 0

    async def releases(self, tenant: str | None = None) -> list[ReleaseView]:
        if self.failures:
            self.failures -= 1
            raise HubUnreachable("the hub cannot be reached")
        return [RETIRED]


def named(state: ConsoleState) -> int:
    """An event arrives that names a release which is live nowhere; its rev."""
    last = state.events[max(state.events)]
    event = last.model_copy(update={"rev": last.rev + 1, "tenant": "dune", "from_release": RETIRED.id})
    state.apply(FeedEvents(events=(event,)))
    return event.rev


async def test_a_tenant_is_asked_once_and_its_releases_are_named_from_then_on(state: ConsoleState) -> None:
    labels = Labels(Registry(seed.hub_state()), state)
    named(state)
    asked = labels.wanted([])
    assert "dune" in asked
    assert "dune" not in labels.wanted([]), "the answer is under way"
    assert state.name_of(RETIRED.id) == RETIRED.id[:6]
    await labels.learn("dune")
    assert state.name_of(RETIRED.id).startswith("v77")
    assert "dune" not in labels.wanted([])


async def test_a_hub_that_did_not_answer_is_asked_again(state: ConsoleState) -> None:
    port = Registry(seed.hub_state())
    port.failures = 1
    labels = Labels(port, state)
    named(state)
    assert "dune" in labels.wanted([])
    await labels.learn("dune")
    assert "dune" in labels.wanted([])
    await labels.learn("dune")
    assert state.name_of(RETIRED.id).startswith("v77")


def test_an_old_event_of_another_tenant_is_asked_about_only_in_view(state: ConsoleState) -> None:
    labels = Labels(Registry(seed.hub_state()), state)
    rev = named(state)
    event = state.events[rev]
    later = [event.model_copy(update={"rev": rev + n, "tenant": "gale", "from_release": None}) for n in range(1, 40)]
    state.apply(FeedEvents(events=tuple(later)))
    assert "dune" not in labels.wanted([])
    assert "dune" in labels.wanted([rev])


def test_the_moves_of_the_preview_are_named_first_however_much_else_the_log_says(state: ConsoleState) -> None:
    state.tenant_list.choose(("acme", "production"))
    labels = Labels(Registry(seed.hub_state()), state)
    event = state.events[named(state)]
    notes = []
    for n in range(1, 40):
        other = {"tenant": f"t{n}", "from_release": seed.view(f"t{n}", "v1").id, "kind": EventKind.ANNOTATE}
        notes.append(event.model_copy(update={"rev": event.rev + n, **other}))
    state.apply(FeedEvents(events=tuple(notes)))
    assert labels.wanted([])[0] == "dune"
    assert RETIRED.id[:6] not in moves_line(state)
    assert "...>" in moves_line(state)


async def test_a_release_that_came_after_its_tenant_was_asked_is_asked_about_too(state: ConsoleState) -> None:
    labels = Labels(Registry(seed.hub_state()), state)
    rev = named(state)
    assert "dune" in labels.wanted([])
    await labels.learn("dune")
    newer = state.events[rev].model_copy(update={"rev": rev + 1, "from_release": seed.view("dune", "v78").id})
    state.apply(FeedEvents(events=(newer,)))
    assert labels.wanted([]) == ["dune"]
    assert labels.wanted([]) == [], "the answer is under way"


def moves_line(state: ConsoleState) -> str:
    row, off = state.row, Refuse("")
    assert row is not None
    lines = preview_lines(state, row, 200, 12, rollback=off, undo=off)
    (moves,) = (text for text in ("".join(span.text for span in line) for line in lines) if " MOVES " in text)
    return moves
