"""What people type and what they are shown, without a hub."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from loradeck.cli.shared.exits import CliError, Exit, exit_of
from loradeck.cli.shared.naming import (
    NamedDocument,
    Pointer,
    labels_of,
    moment,
    one_named,
    pointer,
    pointer_and_release,
)
from loradeck.cli.shared.output import Output, ago, millis, span, utc, width
from loradeck.client.capacity_words import share
from loradeck.schemas.problem import Problem

NOW = int(datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp() * 1000)


def at(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T14:05Z", (2026, 3, 1, 14, 5)),
        ("2026-03-01T14:05:09z", (2026, 3, 1, 14, 5, 9)),
        ("2026-03-01T14:05+01:00", (2026, 3, 1, 13, 5)),
        ("2026-03-01 14:05 +0000".replace(" +", "+"), (2026, 3, 1, 14, 5)),
        ("11:59Z", (2026, 3, 2, 11, 59)),
        ("12:01Z", (2026, 3, 1, 12, 1)),
        ("02:58:30Z", (2026, 3, 2, 2, 58, 30)),
        ("00:30+01:00", (2026, 3, 1, 23, 30)),
        ("23:30-05:00", (2026, 3, 2, 4, 30)),
        ("20 minutes ago", (2026, 3, 2, 11, 40)),
        ("2026-03-02 02:58:07.5 +0000 UTC", (2026, 3, 2, 2, 58, 7, 500_000)),
        ("90s ago", (2026, 3, 2, 11, 58, 30)),
        ("3h ago", (2026, 3, 2, 9, 0)),
        ("2 days ago", (2026, 2, 28, 12, 0)),
    ],
)
def test_a_time_with_its_zone_is_the_last_one_passed(text: str, expected: tuple[int, ...]) -> None:
    for interactive in (True, False):
        assert moment(text, interactive=interactive, now_ms=NOW) == at(*expected)


@pytest.mark.parametrize("text", ["14:05", "2026-03-01T14:05", "2026-03-01"])
def test_a_time_without_a_zone_is_read_only_where_somebody_sees_what_it_came_to(text: str) -> None:
    with pytest.raises(CliError) as error:
        moment(text, interactive=False, now_ms=NOW)
    assert (error.value.code, error.value.exit) == ("no_zone", Exit.USAGE)
    assert moment(text, interactive=True, now_ms=NOW) <= NOW


@pytest.mark.parametrize(
    "text",
    ["", "now", "25:00Z", "14:61Z", "2026-13-01T00:00Z", "2026-03-03T00:00Z", "1e3", "20m", "x ago", "999999d ago"],
)
def test_what_is_no_time_or_has_not_come_is_refused(text: str) -> None:
    with pytest.raises(CliError):
        moment(text, interactive=True, now_ms=NOW)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ("2026-03-29T02:30", "no 02:30", "2026-03-29T00:30Z or 2026-03-29T01:30Z"),
        ("2025-10-26T02:30", "twice", "2025-10-26T00:30Z or 2025-10-26T01:30Z"),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_a_local_time_that_its_day_does_not_have_or_has_twice_is_refused_with_both_that_it_may_mean(
    text: str, said: str, fix: str
) -> None:
    with pytest.raises(CliError, match=said) as error:
        moment(text, interactive=True, now_ms=at(2026, 6, 1))
    assert fix in error.value.fix
    assert moment("2026-03-29T03:30", interactive=True, now_ms=at(2026, 6, 1)) == at(2026, 3, 29, 1, 30)


@pytest.mark.usefixtures("berlin")
def test_a_bare_clock_time_is_the_same_on_the_clock_of_the_day_before_also_over_a_change_of_clocks() -> None:
    assert moment("22:00", interactive=True, now_ms=at(2026, 3, 29, 12)) == at(2026, 3, 28, 21)
    with pytest.raises(CliError, match="no 02:30"):
        moment("02:30", interactive=True, now_ms=at(2026, 3, 29, 12))
    assert moment("02:30", interactive=True, now_ms=at(2026, 3, 28, 23, 30)) == at(2026, 3, 28, 1, 30)


def test_a_pointer_is_named_in_three_ways() -> None:
    assert (
        pointer("acme") == pointer("acme", "production") == pointer("acme/production") == Pointer("acme", "production")
    )
    assert pointer_and_release(("acme", "v7")) == (Pointer("acme", "production"), "v7")
    assert pointer_and_release(("acme", "staging", "v7")) == (Pointer("acme", "staging"), "v7")
    for words in ((), ("acme",), ("a", "b", "c", "d"), ("a/b", "c", "v7")):
        with pytest.raises(CliError):
            pointer_and_release(words)


def test_a_document_goes_by_name_digest_or_a_prefix_that_no_other_has() -> None:
    known = [
        NamedDocument("ab12" + "0" * 60, ("one",), 1),
        NamedDocument("ab13" + "0" * 60, ("two",), 2),
        NamedDocument("cd" * 32, ("two",), 3),
    ]
    assert one_named("suite", "one", known).value == 1
    assert one_named("suite", "two", known).value == 3  # the newest of that name
    assert one_named("suite", "ab12", known).value == 1
    assert one_named("suite", "cd" * 32, known).value == 3
    for text, code in (("ab1", "unknown_suite"), ("three", "unknown_suite")):
        with pytest.raises(CliError) as error:
            one_named("suite", text, known)
        assert error.value.code == code
    with pytest.raises(CliError) as error:
        one_named(
            "suite", "ab10", [NamedDocument("ab10" + "1" * 60, ("x",), 1), NamedDocument("ab10" + "2" * 60, ("y",), 2)]
        )
    assert error.value.code == "ambiguous_suite"


def test_labels_are_pairs() -> None:
    assert labels_of(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    for wrong in ("a", "=b"):
        with pytest.raises(CliError):
            labels_of([wrong])


def test_a_table_is_aligned_by_columns_of_the_terminal_and_says_when_it_is_empty() -> None:
    stream = io.StringIO()
    out = Output(as_json=False, stream=stream)
    out.table(("NAME", "N"), [("acme", 1), ("東京", 22), ("e\u0301t", 3)], empty="none")
    lines = stream.getvalue().splitlines()
    assert {width(line[: line.rindex(" ")]) for line in lines} == {5}
    out.table(("NAME",), [], empty="no tenants")
    assert stream.getvalue().endswith("no tenants\n")


def test_nothing_for_people_is_printed_with_json_and_nothing_for_programs_without() -> None:
    for as_json in (True, False):
        stream = io.StringIO()
        out = Output(as_json=as_json, stream=stream)
        out.say("words")
        out.alarm("words")
        out.heading("words")
        out.table(("A",), [("words",)], empty="words")
        out.json({"document": 1})
        assert ("words" in stream.getvalue()) is not as_json
        assert ("document" in stream.getvalue()) is as_json


def test_figures_read_as_people_say_them() -> None:
    assert [span(s) for s in (None, 0, 41.9, 842, 47040, 212400)] == ["-", "0s", "41s", "14m02s", "13h04m", "2d11h"]
    assert [millis(ms) for ms in (None, 6.24, 999.9, 1900)] == ["-", "+6.2 ms", "+999.9 ms", "+1.90 s"]
    assert [share(x) for x in (None, 0.0, 0.31)] == ["-", "0.0%", "31.0%"]
    assert (utc(None), utc(at(2026, 3, 1, 3, 12, 44))) == ("-", "2026-03-01 03:12:44Z")
    assert ago(at(2026, 3, 2, 9, 30), NOW) == "2h30m ago"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (409, "moved", Exit.REFUSED),
        (404, "unknown_tenant", Exit.REFUSED),
        (422, "invalid_request", Exit.REFUSED),
        (507, "disk_full", Exit.REFUSED),
        (503, "log_behind", Exit.REFUSED),
        (401, "unauthenticated", Exit.PERMISSION),
        (403, "forbidden", Exit.PERMISSION),
        (503, "outcome_unknown", Exit.UNKNOWN),
        (500, "internal", Exit.UNKNOWN),
        (503, "not_active", Exit.UNREACHABLE),
        (503, "starting", Exit.UNREACHABLE),
    ],
)
def test_every_refusal_has_its_exit_status(status: int, code: str, expected: Exit) -> None:
    assert exit_of(Problem(status=status, code=code, title=code)) is expected
