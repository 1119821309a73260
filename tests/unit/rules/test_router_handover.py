"""Two routers of one node: one admits, what is volatile stays, and a cut flip waits for whoever drains."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tests.fleets.in_process.log import ACME, ref

from loradeck.rules.serving.router_handover import Stage, may_acknowledge, may_admit, may_give_back, stage, uncut
from loradeck.schemas.table import CandidateRef, Streams, TableEntry

V7, V8, V9 = ref("v7"), ref("v8"), ref("v9")


def entry(**more: Any) -> TableEntry:
    given = {"current": V7, "streams": Streams.CUT, "epoch": 1, "generation": 4, **more}
    return TableEntry(tenant=ACME[0], route=ACME[1], **given)


def test_only_who_holds_the_lock_and_has_read_the_table_since_admits() -> None:
    for locked, read, gave_back in itertools.product((False, True), repeat=3):
        now = stage(locked=locked, read=read, gave_back=gave_back)
        assert may_admit(now) == (locked and read and not gave_back)


def test_a_router_that_has_given_the_lock_back_never_serves_again() -> None:
    assert stage(locked=True, read=True, gave_back=True) is Stage.DRAINING


def test_a_router_gives_the_lock_back_only_while_it_serves_nothing_that_the_disk_lacks() -> None:
    assert may_give_back(Stage.SERVING, ())
    assert not may_give_back(Stage.SERVING, [ACME])
    assert not may_give_back(Stage.WARM, ())
    assert not may_give_back(Stage.DRAINING, ())


def test_a_cut_flip_waits_until_each_drainer_has_said_that_it_answers_by_no_left_release() -> None:
    assert may_acknowledge(Stage.SERVING, entry(), [])
    assert may_acknowledge(Stage.SERVING, entry(), [[], [V7.id]])
    assert not may_acknowledge(Stage.SERVING, entry(), [[], [V7.id, V9.id]])
    assert not may_acknowledge(Stage.SERVING, entry(), [None])


def test_a_flip_whose_streams_may_finish_waits_for_no_drainer() -> None:
    assert may_acknowledge(Stage.SERVING, entry(streams=Streams.FINISH), [None, [V9.id]])


@pytest.mark.parametrize("now", [Stage.WARM, Stage.DRAINING])
def test_who_does_not_serve_acknowledges_nothing(now: Stage) -> None:
    assert not may_acknowledge(now, entry(streams=Streams.FINISH), [])


def test_answers_of_both_arms_are_kept_and_of_a_withdrawn_or_suspended_pointer_all() -> None:
    out = CandidateRef(release=V8, generation=4, permille=10, salt="5a1c02b7")
    under_way = (V7.id, V8.id, V9.id)
    assert uncut(entry(), under_way) == {V8.id, V9.id}
    assert uncut(entry(candidate=out), under_way) == {V9.id}
    assert uncut(entry(current=None), under_way) == frozenset()
    assert uncut(entry(suspended=True), under_way) == frozenset()
    assert uncut(entry(streams=Streams.FINISH), under_way) == frozenset()
