"""What a node's hello says about a hub's log, and whom it holds back."""

from __future__ import annotations

import pytest
from tests.fleets.in_process.log import ACME, entry, rid

from loradeck.rules.moves.witness import (
    BACKWARD,
    MOST_EPOCH,
    RECORDS,
    LogStanding,
    held_back,
    is_bounded,
    judge,
    known_to,
    waits,
)
from loradeck.schemas.link import TableState
from loradeck.schemas.log import EventKind
from loradeck.schemas.position import Position
from loradeck.schemas.table import Gap, TableEntry

LOG, FIRST, OTHER = "10a" * 10, "1" * 32, "2" * 32


def seen(*, epoch: int = 1, rev: int = 12, log: str = LOG, incarnation: str = FIRST) -> Position:
    return Position(log=log, incarnation=incarnation, epoch=epoch, rev=rev, hash="a" * 64, signature="00")


def standing(
    witnessed: Position | None, *, epoch: int = 1, rev: int = 12, has_hash: bool = False, hub_rev: int = 7
) -> LogStanding:
    return judge(
        epoch=epoch,
        rev=rev,
        has_hash=has_hash,
        hub_epoch=2,
        hub_rev=hub_rev,
        log=LOG,
        incarnations={1: FIRST, 2: "3" * 32},
        witnessed=witnessed,
    )


@pytest.mark.parametrize(("epoch", "rev", "has_hash"), [(0, 0, True), (1, 12, True), (2, 12, True)])
def test_a_node_that_is_new_or_has_seen_only_what_the_log_holds_follows_it(
    epoch: int, rev: int, has_hash: bool
) -> None:
    assert standing(None, epoch=epoch, rev=rev, has_hash=has_hash) is LogStanding.FOLLOWS


def test_a_signed_position_that_the_log_lacks_is_a_lost_tail() -> None:
    assert standing(seen()) is LogStanding.LOST_TAIL
    assert standing(seen(epoch=3, incarnation=OTHER), epoch=3) is LogStanding.LOST_TAIL, "an epoch that was lost too"
    assert LogStanding.LOST_TAIL.is_ahead


def test_a_signed_position_of_an_epoch_that_was_given_to_another_hub_is_a_fork() -> None:
    assert standing(seen(incarnation=OTHER)) is LogStanding.FORK
    assert LogStanding.FORK.is_ahead


@pytest.mark.parametrize(
    "witnessed",
    [None, seen(log="f0e" * 10), seen(rev=11), seen(epoch=2)],
    ids=["none", "of another log", "of an older rev", "of another epoch"],
)
def test_what_is_not_signed_for_exactly_what_is_said_holds_back_nobody_else(witnessed: Position | None) -> None:
    found = standing(witnessed)
    assert found is LogStanding.UNPROVEN
    assert not found.is_ahead


def test_an_empty_log_waits_for_a_recover_on_anybodys_word() -> None:
    assert standing(None, hub_rev=0) is LogStanding.LOST_TAIL
    assert standing(seen(log="f0e" * 10), hub_rev=0) is LogStanding.LOST_TAIL


def test_the_signature_covers_every_field_but_itself() -> None:
    plain = seen()
    assert plain.model_copy(update={"signature": "ff"}).signed_bytes() == plain.signed_bytes()
    changed = [{"log": "b"}, {"incarnation": OTHER}, {"epoch": 2}, {"rev": 13}, {"hash": "b" * 64}]
    others = {plain.model_copy(update=one).signed_bytes() for one in changed}
    assert len(others | {plain.signed_bytes()}) == 6


# ---- what waits for a recover --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EventKind)
def test_what_is_done_in_an_incident_works_on_every_pointer_that_is_not_held_back(kind: EventKind) -> None:
    assert not waits(kind, ahead=False, held=False)
    assert waits(kind, ahead=True, held=False) is (kind not in BACKWARD | RECORDS)
    assert waits(kind, ahead=True, held=True) is (kind not in RECORDS)


NOTHING = known_to(())
OURS = entry("v1", 3)
KNOWN = known_to({(ACME, (1, 3), rid("v1")), (ACME, (1, 2), rid("v2"))})


@pytest.mark.parametrize(
    ("theirs", "held"),
    [
        (OURS, False),
        (entry("v2", 2), False),  # a move of before that its node has not left yet
        (entry(None, 3), False),  # withdrawn from that node
        (entry("v2", 4), True),
        (entry("v2", 3), True),  # another move under our fence
        (entry("v1", 3, epoch=2), True),
        (OURS.model_copy(update={"keys": ("a" * 64,)}), True),
        (OURS.model_copy(update={"suspended": True}), True),
        (OURS.model_copy(update={"gap": Gap.REFUSE}), True),
    ],
)
def test_an_entry_holds_its_pointer_back_if_the_log_lacks_its_move_or_has_other_settings(
    theirs: TableEntry, held: bool
) -> None:
    assert held_back([theirs], {ACME: OURS}, KNOWN) == ((theirs,) if held else ())
    assert held_back([theirs], {}, NOTHING) == (theirs,), "of a pointer that the log does not know"


def test_an_entry_that_no_hub_of_this_log_has_made_holds_nothing_back() -> None:
    real, forged = entry("v2", 4), entry("v3", 9)
    assert held_back([real, forged], {ACME: OURS}, KNOWN, lambda one: one is real) == (real,)


def test_an_epoch_that_no_hub_reaches_is_believed_of_nobody() -> None:
    last = 2**53 - 1
    assert standing(seen(epoch=last), epoch=last) is LogStanding.UNPROVEN
    assert standing(None, epoch=last, hub_rev=0) is LogStanding.UNPROVEN


def test_a_hub_notices_another_one_under_its_epoch_before_either_has_moved_anything() -> None:
    assert standing(seen(incarnation=OTHER), has_hash=True) is LogStanding.FORK


@pytest.mark.parametrize(("epoch", "found"), [(1, LogStanding.FOLLOWS), (2, LogStanding.LOST_TAIL)])
def test_a_position_of_a_hold_of_the_lease_that_the_log_lost_is_a_lost_tail_also_if_its_event_is_known(
    epoch: int, found: LogStanding
) -> None:
    """Another node has made the hub begin a later epoch, so that this one's is none to come any more."""
    judged = judge(
        epoch=epoch,
        rev=12,
        has_hash=True,
        hub_epoch=3,
        hub_rev=12,
        log=LOG,
        incarnations={1: FIRST, 3: "3" * 32},
        witnessed=seen(epoch=epoch),
    )
    assert judged is found


@pytest.mark.parametrize("epoch", [0, MOST_EPOCH, MOST_EPOCH + 1])
def test_a_table_that_names_an_epoch_beyond_all_hubs_is_not_read(epoch: int) -> None:
    table = {"rev": 1, "hash": "a" * 64}
    assert is_bounded(TableState(epoch=epoch, entries=(), **table)) == (epoch <= MOST_EPOCH)
    entries = (entry("v1", 1), entry("v2", 1, epoch=epoch))
    assert is_bounded(TableState(epoch=1, entries=entries, **table)) == (epoch <= MOST_EPOCH)
