"""The timeline of the post-mortem: whole, in order, hashed again, and nothing in it is markup."""

from __future__ import annotations

import json

from tests.fakes import console_fleet as seed

from loradeck.client.timeline import as_json, as_markdown, timeline
from loradeck.rules.moves.chain import event_hash
from loradeck.schemas.log import Event, EventKind, PointerState

LABELS = {seed.view("acme", label).id: label for label in ("v7", "v8", "v9")}


def name(release: str | None) -> str:
    return LABELS.get(release or "", "none")


def events() -> list[Event]:
    """v8, then v9 over its gate, then back to v7; later somebody adds the incident."""
    log = seed.Log()
    v7, v8, v9 = (seed.view("acme", label) for label in ("v7", "v8", "v9"))
    pointer = PointerState(tenant="acme", route="production", generation=1)
    for kind, to, left, why in (
        (EventKind.PROMOTE, v8, v7, "nightly"),
        (EventKind.PROMOTE, v9, v8, "hotfix | for `v8` <b>[x](y)</b>\n# no heading"),
        (EventKind.ROLLBACK, v7, v9, "bad answers"),
    ):
        pointer = pointer.model_copy(update={"release": to.id, "generation": pointer.generation + 1})
        at_ms = seed.NOW_MS + log.rev * 1000
        log.add(kind, pointer, left, actor="op1", at_ms=at_ms, reason=why, override=to is v9)
    note = log.events[1].model_dump() | {
        "rev": 88_404, "id": "f" * 32, "kind": EventKind.ANNOTATE, "pointer": None, "from_release": None,
        "actor": "ana", "reason": "the cause", "incident": "INC-7", "override": False,
        "payload": {"event": log.events[1].id}, "prev_hash": log.events[-1].hash,
    }  # fmt: skip
    draft = Event.model_validate(note)
    return [*log.events, draft.model_copy(update={"hash": event_hash(draft)})]


def made(*which: Event, scope: str = "events of acme"):  # type: ignore[no-untyped-def]
    return timeline(which or events(), hub="eu-1", made_ms=seed.NOW_MS, scope=scope)


def test_events_stand_oldest_first_with_what_was_added_afterwards() -> None:
    text = as_markdown(made(*reversed(events())), name)
    rows = [line for line in text.splitlines() if line.startswith("| 2026")]
    assert [row.split(" | ")[1] for row in rows] == ["88401", "88402", "88403", "88404"]
    assert "v8 > v9" in rows[1]
    assert "**OVERRIDE**" in rows[1]
    assert "INC-7" in rows[1]
    assert "the cause (ana, " in rows[1]
    assert "rollback" in rows[2]
    assert "v9 > v7" in rows[2]
    assert "annotate" in rows[3]


def test_a_move_that_wants_a_ticket_says_so_until_an_annotation_gives_it_one() -> None:
    back, note = (events()[2].model_copy(update={"payload": {"ticket_wanted": True}}), events()[3])
    given = note.model_copy(update={"payload": {"event": back.id, "ticket": "CHG-7"}})
    assert "| WANTED |" in as_markdown(made(back), name)
    assert "| CHG-7 |" in as_markdown(made(back, given), name).splitlines()[7]
    assert json.loads(as_json(made(back, given), name))["events"][0]["added"][0]["ticket"] == "CHG-7"


def test_markup_in_names_and_reasons_is_text_and_breaks_no_table() -> None:
    text = as_markdown(made(scope="filter [a|b]\n"), name)
    row = next(line for line in text.splitlines() if "hotfix" in line)
    assert r"hotfix \| for \`v8\` \<b\>\[x\](y)\</b\> \# no heading" in row
    assert row.replace(r"\|", "").count("|") == 10
    assert r"filter \[a\|b\]" in text


def test_the_json_carries_each_event_as_it_is_in_the_log() -> None:
    document = json.loads(as_json(made(), name))
    assert [Event.model_validate(entry["event"]) for entry in document["events"]] == events()
    assert document["chain"] == {
        "intact": True,
        "links": 3,
        "broken": None,
        "says": "all 4 events hash as they say, 3 links between neighbours hold",
    }
    assert document["events"][1]["added"][0]["incident"] == "INC-7"
    assert (document["events"][2]["from"], document["events"][2]["to"]) == ("v9", "v7")


def test_a_changed_event_and_a_broken_link_are_told() -> None:
    first, second, *rest = events()
    changed = made(first, second.model_copy(update={"reason": "quite all right"}), *rest)
    assert changed.broken == "rev 88402 does not have its own hash"
    assert "- Chain: BROKEN rev 88402" in as_markdown(changed, name)
    assert json.loads(as_json(changed, name))["chain"]["intact"] is False
    other = second.model_copy(update={"prev_hash": "0" * 64})
    other = other.model_copy(update={"hash": event_hash(other)})
    assert "between rev 88401 and 88402" in (made(first, other).broken or "")


def test_a_selection_claims_no_links_that_it_lacks() -> None:
    first, _, third, _ = events()
    part = made(first, third)
    assert part.links == 0
    assert "1 gaps in the revs" in part.chain
    assert made_of_nothing().chain == "no event"


def made_of_nothing():  # type: ignore[no-untyped-def]
    return timeline((), hub="eu-1", made_ms=seed.NOW_MS, scope="nothing")
