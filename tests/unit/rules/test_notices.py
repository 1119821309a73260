"""Notices: a condition is told once it has held, and once more when it has ended; many are told as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from loradeck.rules.quality.health import ENOUGH
from loradeck.rules.quality.notices import (
    CONDITIONS,
    DATED,
    FLAGS,
    GIVEN_UP_S,
    MOST,
    NEAR_MS,
    RETRIES_S,
    Conditions,
    Dated,
    Subject,
    coming,
    conditions,
    grouped,
    near,
    next_attempt_ms,
)
from loradeck.schemas.counts import Counts
from loradeck.schemas.log import PointerState
from loradeck.schemas.notice import Notice, NoticeKind, Severity, Silence
from loradeck.schemas.state import TenantRow

ACME = Subject(NoticeKind.UNPROVEN, "acme", "chat")
BURNING = Subject(NoticeKind.BURNING, "acme", "chat")


def notice(number: int, kind: NoticeKind = NoticeKind.BREACH, **fields: object) -> Notice:
    settings = {"tenant": f"t{number}", "route": "chat", "title": f"t{number}/chat: bad", **fields}
    return Notice.model_validate({"id": f"n{number}", "kind": kind, "severity": Severity.PAGE, "at_ms": 1, **settings})


def test_a_condition_is_told_once_it_has_held_and_once_more_when_it_is_over() -> None:
    held = Conditions()
    assert held.changed([], {ACME: "words"}, 0) == []
    assert held.due(59_999) == []
    (told,) = held.due(60_000)
    assert (told.kind, told.severity, told.over, told.title) == (NoticeKind.UNPROVEN, "page", False, "acme/chat: words")
    assert held.due(120_000) == []
    (over,) = held.changed([ACME], {}, 130_000)
    assert (over.over, over.title, over.id) == (True, "over: acme/chat: words", f"{told.id}-over")
    assert held.changed([ACME], {}, 140_000) == []


def test_what_ends_before_its_time_is_never_told() -> None:
    held = Conditions()
    held.changed([], {ACME: "words"}, 0)
    assert held.changed(held.of("acme", "chat"), {}, 30_000) == []
    assert held.due(90_000) == []


def test_a_condition_that_comes_back_is_told_again_under_another_id() -> None:
    held = Conditions()
    held.changed([], {BURNING: "bad"}, 1000)
    first = held.due(1000)
    held.changed([BURNING], {}, 2000)
    held.changed([], {BURNING: "bad"}, 3000)
    assert held.due(3000)[0].id != first[0].id


def test_a_hub_that_starts_again_tells_nothing_twice_and_still_sees_the_end() -> None:
    held = Conditions()
    held.changed([], {BURNING: "bad"}, 1000)
    told = held.due(1000)
    again = Conditions.after(told)
    again.changed([], {BURNING: "bad"}, 5000)
    assert again.due(5000) == []
    (over,) = again.changed([BURNING], {}, 6000)
    assert (over.over, over.title) == (True, "over: acme/chat: bad")
    assert Conditions.after([*told, over]).of("acme", "chat") == set()


def test_many_of_one_kind_are_told_as_one_that_names_some() -> None:
    few, many = [notice(n) for n in range(MOST)], [notice(n) for n in range(MOST + 5)]
    assert grouped(few) == few
    other = notice(99, NoticeKind.GUARD)
    first, left = grouped([*many, other])
    assert (first.more, left) == (MOST + 4, other)
    assert first.title == "t0/chat: bad (and the same of 14 more)"
    assert first.detail.startswith("t0/chat, t1/chat")
    assert first.detail.endswith("and 5 more")
    assert first.id != many[0].id


def test_attempts_come_later_and_later_and_end_after_a_day() -> None:
    pauses = [next_attempt_ms(0, attempts, 0) for attempts in range(1, 8)]
    assert pauses == [1000 * pause for pause in (*RETRIES_S, RETRIES_S[-1], RETRIES_S[-1])]
    late = 1000 * GIVEN_UP_S - 1000 * RETRIES_S[0]
    assert next_attempt_ms(late, 1, 0) == 1000 * GIVEN_UP_S
    assert next_attempt_ms(late + 1, 1, 0) is None


@pytest.mark.parametrize(
    ("fields", "covers"),
    [
        ({}, True),
        ({"kind": "slow"}, False),
        ({"tenant": "t1"}, True),
        ({"tenant": "t2"}, False),
        ({"node": "n"}, False),
    ],
)
def test_a_silence_covers_what_it_names_until_it_ends(fields: dict[str, str], covers: bool) -> None:
    silence = Silence.model_validate({"id": "s", "until_ms": 100, "reason": "works", "by": "ann", **fields})
    assert silence.covers(notice(1), 99) is covers
    assert not silence.covers(notice(1), 100)


def test_what_is_dated_is_told_two_weeks_before_and_over_once_it_is_later() -> None:
    hub, node = (Subject(NoticeKind.CERTIFICATE_ENDS, node=name) for name in ("", "n1"))
    rows = Subject(NoticeKind.RETENTION_ENDS, "acme", dataset="tickets")
    every = [
        Dated(hub, NEAR_MS + 5, "its own"),
        Dated(hub, NEAR_MS + 9, "later"),
        Dated(node, NEAR_MS + 6),
        Dated(rows, 0),
    ]
    assert [one.subject for one in near(every, 4)] == [rows]
    assert near(every, 5) == [Dated(rows, 0), Dated(hub, NEAR_MS + 5, "its own")]
    held = Conditions()
    held.changed([], coming(near(every, 6)), 6)
    told = {notice.title: notice.command for notice in held.due(6)}
    assert told == {
        "dataset acme/tickets: rows of it may be kept until 1970-01-01": "loradeck dataset ls --tenant acme",
        "the hub: its certificate ends on 1970-01-15, and was not renewed: its own": "loradeck --once",
        "n1: its certificate ends on 1970-01-15, and was not renewed": "loradeck node show n1",
    }
    assert set(held.dated()) == {hub, node, rows}
    (over,) = held.changed(held.dated(), coming(near(every[:3], 7)), 7)
    assert (over.over, over.tenant, over.dataset) == (True, "acme", "tickets")


def test_the_alerts_of_prometheus_say_the_same_at_the_same_time() -> None:
    text = (Path(__file__).parents[3] / "docs" / "alerts.yml").read_text(encoding="utf-8")
    seconds = {"s": 1, "m": 60, "h": 3600}
    found, alone = {}, set()
    for rule in yaml.safe_load(text)["groups"][0]["rules"]:
        said = {f'flag="{flag}"': kind for flag, kind in FLAGS.items()} | {f'kind="{kind}"': kind for kind in DATED}
        said |= {"refused_share > loradeck_pointer_refused_limit": NoticeKind.REFUSED}
        said |= {"burning_promises > 0": NoticeKind.BURNING}
        kinds = [kind for words, kind in said.items() if words in rule["expr"]]
        for kind in kinds:
            held = rule.get("for", "0s")
            found[kind] = (rule["labels"]["severity"], float(held[:-1]) * seconds[held[-1]])
        if not kinds:
            alone.add(rule["alert"].removeprefix("Loradeck"))
    told = {kind: (kind_.severity.value, kind_.after_s) for kind, kind_ in CONDITIONS.items()}
    assert told.pop(NoticeKind.NODE_LOST) == ("page", 0)  # alerts name its pointers: Unheard
    assert found == told
    assert f"of {ENOUGH} requests a minute or more" in text
    of_the_hub = {"HubDiskFull", "OneCopy", "BackupLate", "HubClockBehind", "NobodyTakesOver", "RefusingMoves"}
    assert alone == of_the_hub | {"Unheard", "OnlyListed", "VotesDropped", "MessagesRefused"}


def test_a_budget_that_burns_pages_at_once_and_is_looked_at_until_it_does_not() -> None:
    at = {"tenant": "acme", "route": "chat"}
    said = ("errors 20.0% of 4,000 in an hour, 1.0% promised",)
    row = TenantRow.model_construct(**at, pointer=PointerState(**at), live=None, burning=said)
    held = Conditions()
    held.changed([], conditions(row), 0)
    (notice,) = held.due(0)
    assert (notice.kind, notice.severity) == (NoticeKind.BURNING, Severity.PAGE)
    assert notice.title == f"acme/chat: its error budget is gone within days: {said[0]}"
    assert held.passing() == [row.key]


def test_refused_requests_are_told_above_one_in_twenty_and_looked_at_until_they_are_over() -> None:
    at = {"tenant": "acme", "route": "chat"}
    none, quiet, few, many, dead = (
        TenantRow.model_construct(**at, pointer=PointerState(**at), live=None, minute=minute)
        for minute in (Counts(), Counts(20, 2), Counts(100, 5), Counts(100, 6), Counts(5, 5))
    )
    assert conditions(none) == conditions(quiet) == conditions(few) == {}
    subject = Subject(NoticeKind.REFUSED, "acme", "chat")
    assert conditions(many) == {subject: "routers refuse 6% of the requests for nothing"}
    assert conditions(dead) == {subject: "routers refuse 100% of the requests for nothing"}
    strict, lenient = (many.model_copy(update={"refusals_promised": share}) for share in (0.01, 0.1))
    assert conditions(lenient) == {}
    assert conditions(strict.model_copy(update={"minute": Counts(100, 2)})).keys() == {subject}
    held = Conditions()
    held.changed([], conditions(many), 0)
    assert held.passing() == [("acme", "chat")]
    assert held.of("acme", "chat") == {subject}


def test_what_ended_while_no_hub_ran_is_told_in_the_words_of_its_beginning() -> None:
    held = Conditions()
    held.changed([], {BURNING: "bad"}, 1000)
    (over,) = Conditions.after(held.due(1000)).changed([BURNING], {}, 6000)
    assert (over.over, over.title) == (True, "over: acme/chat: bad")
