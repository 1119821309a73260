"""Every order of three routers, two moves and their hand-overs, and the mistakes that this finds."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest
from tests.exhaustive.hand_over import Check, Rules
from tests.exhaustive.search import Violation

from loradeck.rules.serving.router_handover import Stage, may_acknowledge, may_give_back, stage
from loradeck.schemas.table import TableEntry

Drainers = Iterable[Collection[str] | None]


def test_no_order_of_three_routers_and_two_moves_breaks_an_invariant() -> None:
    check = Check(starts=3, moves=2)
    check.run()
    assert check.worlds > 10_000


def serves_what_it_read_before(*, locked: bool, read: bool, gave_back: bool) -> Stage:
    return stage(locked=locked, read=locked, gave_back=gave_back)


def drains_and_admits(now: Stage) -> bool:
    return now is not Stage.WARM


def gives_back_what_the_disk_lacks(now: Stage, volatile: Collection[object]) -> bool:
    return may_give_back(now, ())


def waits_for_no_drainer(now: Stage, entry: TableEntry, drainers: Drainers) -> bool:
    return may_acknowledge(now, entry, ())


def takes_silence_for_the_end(now: Stage, entry: TableEntry, drainers: Drainers) -> bool:
    return may_acknowledge(now, entry, [said for said in drainers if said is not None])


def waits_until_they_have_ended(now: Stage, entry: TableEntry, drainers: Drainers) -> bool:
    return may_acknowledge(now, entry, ()) and not list(drainers)


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        (Rules(stage=serves_what_it_read_before), "brought a left release back"),
        (Rules(may_admit=drains_and_admits), "two routers admit"),
        (Rules(may_give_back=gives_back_what_the_disk_lacks), "brought a left release back"),
        (Rules(may_acknowledge=waits_for_no_drainer), "goes on after its cut"),
        (Rules(may_acknowledge=takes_silence_for_the_end), "goes on after its cut"),
        (Rules(may_acknowledge=waits_until_they_have_ended), "never acknowledged"),
    ],
    ids=["reads before the lock", "drainer admits", "volatile", "no drainer", "silent drainer", "endless wait"],
)
def test_a_planted_mistake_is_found_with_the_steps_that_lead_to_it(mistake: Rules, found: str) -> None:
    with pytest.raises(Violation, match=found) as violation:
        Check(starts=3, moves=1, rules=mistake).run()
    assert " / " in str(violation.value)
