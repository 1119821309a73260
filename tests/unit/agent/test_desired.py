"""Which messages of a hub count, and what the table is after them."""

from __future__ import annotations

import pytest

from loradeck.schemas.link import Bookmark, Desired, Welcome
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.table import ReleaseRef, TableEntry, table_digest
from loradeck_agent.router.wire import Cursor
from loradeck_agent.uplink.desired_table import DesiredTable, DirectiveVerdict

HASH = "a" * 64


def entry(generation: int, *, epoch: int = 1, route: str = "production", base: str = "b") -> TableEntry:
    release = Release(tenant="acme", form=Form.BASE, base=base * 64)
    ref = ReleaseRef(id=release.id, release=release)
    return TableEntry(tenant="acme", route=route, epoch=epoch, generation=generation, current=ref)


def desired(
    *entries: TableEntry, rev: int, prev: int | None = None, epoch: int = 1, full: bool = False, table: str = HASH
) -> Desired:
    return Desired(
        epoch=epoch,
        rev=rev,
        prev_rev=rev - 1 if prev is None else prev,
        hash=HASH,
        entries=entries,
        full=full,
        table=table,
    )


def at(epoch: int, rev: int) -> DesiredTable:
    return DesiredTable(cursor=Cursor(epoch, rev, HASH))


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        (desired(rev=11), DirectiveVerdict.APPLY),
        (desired(rev=13, prev=12), DirectiveVerdict.GAP),
        (desired(rev=13, prev=9), DirectiveVerdict.APPLY),
        (desired(rev=9), DirectiveVerdict.STALE),
        (desired(rev=11, epoch=1), DirectiveVerdict.APPLY),
        (desired(rev=99, epoch=0, full=True), DirectiveVerdict.STALE),
        (desired(rev=9, full=True), DirectiveVerdict.STALE),
        (desired(rev=10, prev=0, full=True), DirectiveVerdict.APPLY),
        (desired(rev=3, prev=0, epoch=2, full=True), DirectiveVerdict.APPLY),
        (desired(rev=12, prev=11, epoch=2), DirectiveVerdict.GAP),
    ],
)
def test_what_is_heard_at_epoch_1_revision_10(message: Desired, heard: DirectiveVerdict) -> None:
    table = at(1, 10)
    assert table.judge(message) is heard
    assert table.cursor == Cursor(1, 10), "hearing alone changes nothing"


def test_an_entry_never_goes_back_behind_its_own_fence() -> None:
    table = at(1, 10)
    table.apply(desired(entry(5), rev=11))
    table.apply(desired(entry(4), rev=12))
    assert table.entries["acme", "production"].generation == 5
    table.apply(desired(entry(1, epoch=2), rev=13, epoch=2))
    assert table.entries["acme", "production"].fence == (2, 1)


def test_the_digest_tells_whether_the_table_is_the_hubs() -> None:
    table = at(1, 10)
    first, second = entry(1), entry(1, route="staging")
    assert table.apply(desired(first, rev=11, table=table_digest([first])))
    assert not table.apply(desired(rev=12, table=table_digest([first, second])))


def test_what_a_full_table_no_longer_names_becomes_a_tombstone_and_is_not_counted() -> None:
    table = at(1, 10)
    first, second = entry(1), entry(1, route="staging")
    table.apply(desired(first, second, rev=11))
    assert table.apply(desired(first, rev=12, full=True, table=table_digest([first])))
    assert list(table.entries) == [first.key]
    assert [(e.current, e.fence) for e in table.orphans.values()] == [(None, second.fence)]
    assert {e.key for e in table.named()} == {first.key, second.key}
    table.apply(desired(second, rev=13))
    assert table.orphans == {}


def test_the_newest_move_comes_first() -> None:
    table = at(1, 10)
    table.apply(desired(entry(1), entry(1, route="staging"), rev=11))
    table.apply(desired(entry(2), rev=12))
    assert [e.route for e in table.named()] == ["production", "staging"]


def test_a_hub_that_lacks_our_log_is_refused_until_it_sends_everything_under_a_higher_epoch() -> None:
    table = at(3, 10)
    table.welcome(Welcome(epoch=4, rev=6, hash=HASH, refuse="log_behind"))
    for message in (desired(rev=7, epoch=4), desired(rev=7, epoch=4, full=True), desired(rev=9, prev=0, epoch=5)):
        assert table.judge(message) is DirectiveVerdict.REFUSED
    assert not table.bookmark(Bookmark(epoch=4, rev=6, hash=HASH))
    assert table.cursor == Cursor(3, 10)
    assert table.judge(desired(rev=9, prev=0, epoch=5, full=True)) is DirectiveVerdict.APPLY
    assert table.refused is None


def test_a_welcome_without_refusal_ends_an_earlier_one() -> None:
    table = at(3, 10)
    table.welcome(Welcome(epoch=4, rev=6, hash=HASH, refuse="log_behind"))
    table.welcome(Welcome(epoch=5, rev=12, hash=HASH))
    assert table.judge(desired(rev=12, prev=10, epoch=5)) is DirectiveVerdict.APPLY


def test_a_bookmark_moves_the_cursor_forward_only() -> None:
    table = at(1, 10)
    assert table.bookmark(Bookmark(epoch=1, rev=12, hash=HASH))
    assert table.cursor == Cursor(1, 12)
    assert not table.bookmark(Bookmark(epoch=1, rev=11, hash=HASH))
    assert not table.bookmark(Bookmark(epoch=0, rev=99, hash=HASH))
    assert table.cursor == Cursor(1, 12)
