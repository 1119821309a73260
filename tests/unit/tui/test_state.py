"""What the console knows: order, selection, ages and the link."""

from __future__ import annotations

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Clock

from loradeck.schemas.feed import FeedEvents, FeedJobs, FeedNodes, FeedReset, FeedStatus, FeedTenants
from loradeck.tui.keys.action import Screen
from loradeck.tui.lines.columns import node_heard
from loradeck.tui.model.feed_state import Link
from loradeck.tui.model.lists import FilterError, Listing, RowFilter
from loradeck.tui.model.state import ConsoleState

ACME = ("acme", "production")
BOLT = ("bolt", "production")
CEDAR = ("cedar", "production")
GALE = ("gale", "production")


def flag(state: ConsoleState, key: tuple[str, str], *flags: str) -> None:
    state.apply(FeedTenants(rows=(state.tenants[key].model_copy(update={"flags": flags}),)))


def test_attention_comes_first_bad_unproven_moved_within_an_hour(state: ConsoleState) -> None:
    order = state.tenant_list.order
    assert order[:4] == [ACME, BOLT, ("aspen", "production"), ("birch", "staging")]
    assert order[4:] == sorted(order[4:])
    assert CEDAR in order[4:], "no way back alone needs nobody"
    assert len(order) == len(state.tenants) == 29


def test_the_summary_counts_each_row_once(state: ConsoleState) -> None:
    counts = state.tenants.counts
    assert (counts.need, counts.bad, counts.unproven, counts.no_way_back) == (2, 1, 1, 1)
    assert counts.need + counts.empty + counts.fine == len(state.tenants)


def test_a_failed_promote_needs_somebody_after_what_is_bad_or_unproven(state: ConsoleState) -> None:
    counts = state.tenants.counts
    fine = counts.fine
    flag(state, CEDAR, "NOPRIOR", "FAILED")
    assert (counts.need, counts.failed, counts.fine) == (3, 1, fine - 1)
    state.arrange(force=True)
    assert state.tenant_list.order[:3] == [ACME, BOLT, CEDAR]


def test_a_pointer_that_serves_nothing_is_not_fine(state: ConsoleState) -> None:
    fine = state.tenants.counts.fine
    row = state.tenants[GALE]
    state.apply(FeedTenants(rows=(row.model_copy(update={"live": None}),)))
    assert (state.tenants.counts.fine, state.tenants.counts.empty) == (fine - 1, 1)


def test_of_bad_rows_the_one_that_does_most_harm_is_first(state: ConsoleState) -> None:
    for key, rate, bad in (("aspen", 2.0, 0.002), ("gale", 41.0, 0.31)):
        row = state.tenants[key, "production"]
        figures = {"flags": ("BAD",), "requests_per_s": rate, "bad_now": bad, "error_share": 0.0}
        state.apply(FeedTenants(rows=(row.model_copy(update=figures),)))
    state.arrange()
    bad_first = [key for key, _ in state.tenant_list.order[:3]]
    assert bad_first.index("gale") < bad_first.index("aspen")


def test_the_selection_follows_the_row_through_resorting(state: ConsoleState) -> None:
    state.tenant_list.choose(GALE)
    before = state.tenant_list.index
    flag(state, GALE, "BAD")
    state.arrange()
    assert state.tenant_list.selected == GALE
    assert state.tenant_list.index == 1 != before


def test_the_order_is_frozen_for_two_seconds_after_a_key(state: ConsoleState, clock: Clock) -> None:
    order = list(state.tenant_list.order)
    state.touched()
    flag(state, GALE, "BAD")
    clock.now += 1.9
    state.arrange()
    assert state.tenant_list.order == order
    clock.now += 0.2
    state.arrange()
    assert state.tenant_list.order[:2] == [ACME, GALE]


def test_while_frozen_new_rows_come_last_and_gone_rows_leave(state: ConsoleState) -> None:
    state.touched()
    new = state.tenants[ACME].model_copy(update={"tenant": "aaa"})
    state.apply(FeedTenants(rows=(new,), gone=(GALE,)))
    state.arrange()
    assert state.tenant_list.order[-1] == ("aaa", "production")
    assert GALE not in state.tenant_list.order


def test_when_the_selected_row_goes_the_line_stays(state: ConsoleState) -> None:
    state.tenant_list.choose(BOLT)
    state.apply(FeedTenants(rows=(), gone=(BOLT,)))
    state.arrange()
    assert state.tenant_list.selected == ("aspen", "production")


def test_marks_of_rows_that_are_gone_are_dropped(state: ConsoleState) -> None:
    state.tenant_list.choose(BOLT)
    state.toggle_mark()
    assert state.marks == [BOLT]
    state.apply(FeedTenants(rows=(), gone=(BOLT,)))
    assert state.marks == []


def test_marking_twice_unmarks(state: ConsoleState) -> None:
    state.toggle_mark()
    state.toggle_mark()
    assert state.marks == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("acme", {ACME}),
        ("^a", {ACME, ("aspen", "production")}),
        ("bad answers|unproven", {ACME, BOLT}),
        ("ACME", {ACME}),
        ("BAD|UNPRVN", {ACME, BOLT}),
        ("1 unproven", {BOLT}),
        ("no way back|NOPRIOR", {CEDAR}),
    ],
)
def test_the_filter_is_a_regular_expression_over_what_is_shown(
    state: ConsoleState, text: str, shown: set[tuple[str, str]]
) -> None:
    state.set_filter(RowFilter.parse(text))
    assert set(state.tenant_list.order) == shown


def test_an_exclamation_mark_inverts_the_filter(state: ConsoleState) -> None:
    state.set_filter(RowFilter.parse("!production"))
    assert state.tenant_list.order == [("birch", "staging")]


def test_an_unfinished_expression_is_an_error_and_an_empty_one_no_filter() -> None:
    with pytest.raises(FilterError, match="no regular expression"):
        RowFilter.parse("(")
    assert RowFilter.parse(" ! ") == RowFilter.parse("") == RowFilter()


def test_a_listing_without_rows_selects_nothing() -> None:
    listing: Listing[str] = Listing()
    listing.step(1)
    listing.jump(-1)
    assert listing.selected is None
    assert not listing.choose("x")


def test_the_link_is_connecting_live_stale_lost(clock: Clock) -> None:
    state = ConsoleState(clock=clock)
    assert state.link is Link.CONNECTING
    state.link_down("refused")
    assert state.link is Link.CONNECTING
    assert state.link_trouble == "refused"
    list(state.loading(seed.hub_state()))
    assert state.link is Link.LIVE
    clock.now += 3.9
    assert state.link is Link.LIVE
    clock.now += 0.2
    assert state.link is Link.STALE
    state.link_down("it broke")
    assert state.link is Link.LOST
    status = state.status
    assert status is not None
    state.apply(FeedStatus(status=status))
    assert state.link is Link.LIVE


def test_any_message_proves_that_the_hub_is_there(state: ConsoleState, clock: Clock) -> None:
    for message in (FeedJobs(rows=()), FeedNodes(rows=()), FeedEvents(events=()), FeedReset(why="old")):
        clock.now += 3
        state.apply(message)
        assert state.link is Link.LIVE


def test_ages_count_up_while_the_link_is_down(state: ConsoleState, clock: Clock) -> None:
    node = state.nodes["gpu-04"]
    assert node_heard(state, node) == 14.0
    state.link_down("it broke")
    clock.now += 20
    assert node_heard(state, node) == 34.0
    assert state.silent_s == 20.0
    moved = state.tenants[ACME].pointer.moved_ms
    assert state.age_of(moved) == 14 * 60 + 20


def test_a_node_never_heard_from_has_no_age(state: ConsoleState) -> None:
    node = state.nodes["gpu-01"].model_copy(update={"heard_age_s": None})
    assert node_heard(state, node) is None


def test_the_hubs_clock_is_counted_on_and_corrected(state: ConsoleState, clock: Clock) -> None:
    clock.now += 2.5
    assert state.hub_now_ms == seed.NOW_MS + 2500
    status = state.status
    assert status is not None
    state.apply(FeedStatus(status=status.model_copy(update={"at_ms": seed.NOW_MS + 10_000})))
    assert state.hub_now_ms == seed.NOW_MS + 10_000


def test_events_are_kept_once_and_in_order(state: ConsoleState) -> None:
    revs = list(state.events)
    newest, oldest = state.events[revs[-1]], state.events[revs[0]]
    state.apply(FeedEvents(events=(newest, oldest)))
    assert list(state.events) == revs == sorted(revs)


def test_a_new_list_replaces_what_was(state: ConsoleState) -> None:
    listed = seed.hub_state()
    list(state.loading(listed.model_copy(update={"tenants": listed.tenants[:2], "events": listed.events[-1:]})))
    assert len(state.tenants) == 2
    assert list(state.events) == [listed.events[-1].rev]
    assert len(state.tenant_list.order) == 2


def test_labels_of_releases_are_learnt_and_kept(state: ConsoleState) -> None:
    v9 = seed.view("acme", "v9")
    assert state.name_of(v9.id) == "v9/B2"
    state.apply(FeedTenants(rows=(), gone=(ACME,)))
    assert state.name_of(v9.id) == "v9/B2"
    assert state.name_of(None) == "none"
    assert state.name_of("f" * 64) == "ffffff"
    assert state.owner_of(v9.id) == "acme"


def test_lost_nodes_and_running_jobs_come_first_and_events_newest_first(state: ConsoleState) -> None:
    assert state.node_list.order[0] == "gpu-04"
    states = [state.jobs[job].state.value for job in state.job_list.order]
    assert states == ["running", "running", "running", "queued", "done", "failed"]
    assert state.event_list.order == sorted(state.events, reverse=True)


def test_each_screen_has_its_own_list(state: ConsoleState) -> None:
    seen = []
    for screen in Screen:
        state.screen = screen
        seen.append(id(state.listing))
    assert len(set(seen)) == len(Screen)
