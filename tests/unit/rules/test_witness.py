"""What a node's hello says about a hub's log, and whom it holds back."""

from __future__ import annotations

import pytest

from loradeck.rules.moves.witness import Standing, judge
from loradeck.schemas.position import Position

LOG, FIRST, OTHER = "10a" * 10, "1" * 32, "2" * 32


def seen(*, epoch: int = 1, rev: int = 12, log: str = LOG, incarnation: str = FIRST) -> Position:
    return Position(log=log, incarnation=incarnation, epoch=epoch, rev=rev, hash="a" * 64, signature="00")


def standing(
    witnessed: Position | None, *, epoch: int = 1, rev: int = 12, has_hash: bool = False, hub_rev: int = 7
) -> Standing:
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
    assert standing(None, epoch=epoch, rev=rev, has_hash=has_hash) is Standing.FOLLOWS


def test_a_signed_position_that_the_log_lacks_is_a_lost_tail() -> None:
    assert standing(seen()) is Standing.LOST_TAIL
    assert standing(seen(epoch=3, incarnation=OTHER), epoch=3) is Standing.LOST_TAIL, "an epoch that was lost too"
    assert Standing.LOST_TAIL.is_ahead


def test_a_signed_position_of_an_epoch_that_was_given_to_another_hub_is_a_fork() -> None:
    assert standing(seen(incarnation=OTHER)) is Standing.FORK
    assert Standing.FORK.is_ahead


@pytest.mark.parametrize(
    "witnessed",
    [None, seen(log="f0e" * 10), seen(rev=11), seen(epoch=2)],
    ids=["none", "of another log", "of an older rev", "of another epoch"],
)
def test_what_is_not_signed_for_exactly_what_is_said_holds_back_nobody_else(witnessed: Position | None) -> None:
    found = standing(witnessed)
    assert found is Standing.UNPROVEN
    assert not found.is_ahead


def test_an_empty_log_waits_for_a_recover_on_anybodys_word() -> None:
    assert standing(None, hub_rev=0) is Standing.LOST_TAIL
    assert standing(seen(log="f0e" * 10), hub_rev=0) is Standing.LOST_TAIL


def test_the_signature_covers_every_field_but_itself() -> None:
    plain = seen()
    assert plain.model_copy(update={"signature": "ff"}).signed_bytes() == plain.signed_bytes()
    changed = [{"log": "b"}, {"incarnation": OTHER}, {"epoch": 2}, {"rev": 13}, {"hash": "b" * 64}]
    others = {plain.model_copy(update=one).signed_bytes() for one in changed}
    assert len(others | {plain.signed_bytes()}) == 6
