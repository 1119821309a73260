"""The post-mortem of an incident: one page with figures and their n, moves drawn in, and nothing in it is markup."""

import re
from html.parser import HTMLParser
from typing import Any

from tests.fakes import console_fleet as seed

from loradeck.client.post_mortem import as_html
from loradeck.schemas.counts import Counts, RouteHistory
from loradeck.schemas.incident import Incident, IncidentPointer, IncidentReport, RelatedReleases, Suspect
from loradeck.schemas.log import EventKind, PointerState
from loradeck.schemas.notice import Notice, NoticeKind, Severity

V7, V9 = (seed.view("acme", label) for label in ("v7", "v9"))
AT = seed.NOW_MS // 60_000 * 60_000
MINUTE = AT // 60_000
EVIL = "<script>alert(1)</script>"


def served(n: int, bad: int) -> Counts:
    return Counts.over(finished=n, checked=n, bad=bad)


def report(**update: Any) -> IncidentReport:
    """v9 over v7 at minute 10, back to v7 at minute 20, a note at minute 25."""
    log = seed.Log()
    pointer = PointerState(tenant="acme", route="production", generation=1)
    for kind, to, left, minute in ((EventKind.PROMOTE, V9, V7, 10), (EventKind.ROLLBACK, V7, V9, 20)):
        pointer = pointer.model_copy(update={"release": to.id, "generation": pointer.generation + 1})
        log.add(kind, pointer, left, actor="op1", at_ms=AT + minute * 60_000, reason=EVIL)
    note = log.events[-1].model_copy(
        update={
            "kind": EventKind.ANNOTATE, "pointer": None, "from_release": None, "incident": "INC-7", "actor": "ana",
            "reason": f"the schema {EVIL}", "payload": {"incident": {"does": "note"}}, "at_ms": AT + 25 * 60_000,
        }
    )  # fmt: skip
    at = IncidentPointer(
        tenant="acme", route="production", suspect=Suspect(release=V9.id, at_ms=AT + 600_000), added_ms=AT
    )
    minutes = {MINUTE + n: served(100, 31 if 10 < n <= 20 else 1) for n in range(30)}
    found = IncidentReport(
        incident=Incident(id="INC-7", title=f"31 % bad {EVIL}", by="op1", opened_ms=AT, pointers=(at,)),
        at_ms=AT + 30 * 60_000,
        events=(*log.events, note),
        histories=(
            RouteHistory(tenant="acme", route="production", at_ms=AT + 30 * 60_000, since=MINUTE, minutes=minutes),
        ),
        notices=(
            Notice(id="b", kind=NoticeKind.BREACH, severity=Severity.PAGE, at_ms=AT, title=f"v9 answers badly {EVIL}"),
        ),
        releases={V7.id: V7, V9.id: V9},
    )
    return found.model_copy(update=update)


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not the innermost open one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """It is closed already."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_figures_stand_between_the_moves_each_with_its_n() -> None:
    page = as_html(report())
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    figures = [row[2:] for row in rows if len(row) == 6 and "n = " in row[5]]
    assert [(row[0][:2], row[1], row[3]) for row in figures] == [
        ("v7", "1,100", "1.0% (0.6% to 1.8%, n = 1,100)"),
        ("v9", "1,000", "31.0% (28.2% to 33.9%, n = 1,000)"),
        ("v7", "900", "1.0% (0.5% to 1.9%, n = 900)"),
    ]
    assert page.count('<line class="move"') == 2
    assert page.count('<rect class="requests"') == 30
    assert "(ana" not in page
    assert "the schema" in page


def test_bad_answers_that_routers_still_hold_are_named_with_the_check_that_they_failed() -> None:
    traced = seed.traces("acme", "production", V9.id)
    bad = [row for row in traced.rows if row.bad]
    assert len(bad) == 1
    page = as_html(report(), None, traced)
    assert f"Bad answers of v9 {V9.id[:6]}" in page
    assert f"{len(bad)} of {sum(row.checked for row in traced.rows)} checked answers" in page
    assert f"<td>{bad[0].request}</td>" in page


def test_nothing_that_anybody_said_is_markup_and_each_tag_is_closed() -> None:
    related = RelatedReleases(tenant="acme", route="production", generation=3, incident="INC-7", about=EVIL)
    page = as_html(report(), related)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)=", page)


def test_a_time_without_requests_has_no_chart_and_is_a_page_all_the_same() -> None:
    empty = RouteHistory(tenant="acme", route="production", at_ms=AT, since=MINUTE)
    page = as_html(report(histories=(empty,), events=(), notices=(), more=3))
    assert "No requests in this time." in page
    assert "3 earlier events are left out" in page
    assert "<svg" not in page


def test_samples_are_counted_where_a_tenant_has_them_kept() -> None:
    assert "Samples that nodes keep" not in as_html(report())
    assert "<code>loradeck route samples</code>: 1,200." in as_html(report(samples=1200))
