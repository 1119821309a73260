"""Incidents as the log folds them: opened, added to, noted, closed, and what is refused."""

import pytest
from tests.fleets.in_process.log import GUARD, OPERATOR, Acme, rid

from loradeck.rules.errors import Refused
from loradeck.rules.moves import incidents
from loradeck.rules.moves.incidents import after, note_of, suspect_of
from loradeck.schemas.incident import MOST_OPEN, MOST_POINTERS, Incident, IncidentOpen, IncidentText, PointerRef
from loradeck.schemas.log import Event

ACME, CHAT = ("acme", "production"), ("acme", "chat")
TEXT = IncidentText(text="the schema was wrong", idempotency_key="text-key-1")


def asked(reason: str = "31 % bad", *routes: str) -> IncidentOpen:
    pointers = tuple(PointerRef(tenant="acme", route=route) for route in routes or ("production",))
    return IncidentOpen(pointers=pointers, reason=reason, idempotency_key="open-key-1")


@pytest.fixture
def acme() -> Acme:
    return Acme()


def opened(acme: Acme, known: Incident | None = None, *keys: tuple[str, str]) -> Incident:
    drafts = incidents.open_("INC-7", known, asked(), [(key, None) for key in keys or (ACME,)], OPERATOR)
    return folded(known, acme.log.commit(*drafts))


def folded(known: Incident | None, events: list[Event]) -> Incident:
    for event in events:
        known = after(known, event)
    assert known is not None
    return known


def test_an_incident_is_what_its_events_say(acme: Acme) -> None:
    one = opened(acme)
    assert (one.id, one.title, one.by, one.tenant, one.closed_ms) == ("INC-7", "31 % bad", "op1", "acme", None)
    both = opened(acme, one, ACME, CHAT)
    assert [at.key for at in both.pointers] == [ACME, CHAT]
    (noted,) = acme.log.commit(incidents.note(both, TEXT, OPERATOR))
    assert note_of(noted) == "the schema was wrong"
    assert after(both, noted) == both
    (closing,) = acme.log.commit(incidents.close(both, TEXT, OPERATOR))
    closed = folded(both, [closing])
    assert (closed.closed_by, closed.outcome, closed.closed_ms) == ("op1", "the schema was wrong", closing.at_ms)
    incidents.note(closed, TEXT, OPERATOR)  # what is found out later is added all the same
    assert acme.pointer.generation == 0


def test_its_first_words_are_needed_and_one_that_is_closed_stays_so(acme: Acme) -> None:
    with pytest.raises(Refused) as refused:
        incidents.open_("INC-7", None, asked(" "), [(ACME, None)], OPERATOR)
    assert refused.value.code == "reason_required"
    one = opened(acme)
    closed = folded(one, acme.log.commit(incidents.close(one, TEXT, OPERATOR)))
    for what in (lambda: incidents.close(closed, TEXT, OPERATOR), lambda: opened(acme, closed)):
        with pytest.raises(Refused) as refused:
            what()
        assert refused.value.code == "incident_closed"


def test_pointers_that_it_has_are_not_added_again_and_it_has_a_bound(acme: Acme) -> None:
    one = opened(acme)
    with pytest.raises(Refused) as refused:
        opened(acme, one)
    assert refused.value.code == "no_change"
    many = [(("acme", f"r{n}"), None) for n in range(MOST_POINTERS)]
    with pytest.raises(Refused) as refused:
        incidents.open_("INC-7", one, asked(), many, OPERATOR)
    assert refused.value.code == "too_many_pointers"


def test_a_tenant_has_so_many_open_ones_at_a_time_and_adds_to_them_all_the_same(acme: Acme) -> None:
    with pytest.raises(Refused) as refused:
        incidents.open_("INC-8", None, asked(), [(ACME, None)], OPERATOR, others=MOST_OPEN)
    assert refused.value.code == "too_many_incidents"
    assert incidents.open_("INC-7", opened(acme), asked(), [(CHAT, None)], OPERATOR, others=MOST_OPEN)


def test_a_move_that_names_an_incident_opens_none_and_a_guards_move_marks_it(acme: Acme) -> None:
    acme.promote("v1")
    promoted = acme.promote("v2")
    assert after(None, promoted.model_copy(update={"incident": "INC-7"})) is None
    one = opened(acme)
    rolled = acme.rollback(actor=GUARD).model_copy(update={"incident": "INC-7"})
    marked = after(one, rolled)
    assert marked == one.model_copy(update={"guard": True})
    about = suspect_of(rid("v2"), promoted)
    assert (about.left, about.by, about.promoted) == (rid("v1"), "rel1", True)


def test_the_move_of_a_guard_opens_one_by_itself(acme: Acme) -> None:
    acme.promote("v1")
    promoted = acme.promote("v2")
    rolled = acme.rollback(actor=GUARD)
    payload = {**rolled.payload, **incidents.opening(suspect_of(rid("v2"), promoted))}
    made = after(None, rolled.model_copy(update={"incident": "inc-1", "payload": payload}))
    assert made is not None
    assert (made.guard, made.by, made.pointers[0].suspect) == (True, "guard", suspect_of(rid("v2"), promoted))
