"""Every order of three moves, a takeover and what is sent, and the mistakes that this finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.exhaustive.search import Violation
from tests.exhaustive.worlds import Check, Rules

from loradeck.rules.moves import rollbacks
from loradeck.rules.serving.flip import Verdict, decide
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Draft, Event, PointerState
from loradeck.schemas.table import RouteResidency, TableEntry

ON_DEMAND = RouteResidency.ON_DEMAND


@pytest.mark.parametrize(
    ("more", "worlds"),
    [
        pytest.param(more, worlds, id=name, marks=pytest.mark.drawn(seconds=5, group=name))
        for name, more, worlds in (
            ("all fit", {}, 10_000),
            ("v2 breached", {"breached": ("v2",)}, 10_000),
            ("on demand", {"residency": ON_DEMAND}, 5_000),
        )
    ],
)
def test_no_order_of_three_moves_and_a_takeover_breaks_an_invariant(more: dict[str, Any], worlds: int) -> None:
    check = Check(moves=3, takeovers=1, **more)
    check.run()
    assert check.worlds > worlds


def without_fences(
    current: TableEntry | None, wanted: TableEntry, ready: bool, pin: None, *, waiting: TableEntry | None = None
) -> Verdict:
    return decide(None, wanted, ready, pin)


def without_steps(
    current: TableEntry | None, wanted: TableEntry, ready: bool, pin: None, *, waiting: TableEntry | None = None
) -> Verdict:
    def bare(entry: TableEntry | None) -> TableEntry | None:
        return entry.model_copy(update={"candidate": None}) if entry is not None else None

    return decide(bare(current), wanted.model_copy(update={"candidate": None}), ready, pin, waiting=bare(waiting))


def undo_with_candidate(
    pointers: Mapping[PointerKey, PointerState],
    undone: Sequence[Event],
    before: Mapping[PointerKey, PointerState],
    *rest: Any,
) -> list[Draft]:
    (draft,) = rollbacks.undo(pointers, undone, before, *rest)
    assert draft.pointer is not None
    candidate = before[draft.pointer.key].candidate
    return [draft.model_copy(update={"pointer": draft.pointer.model_copy(update={"candidate": candidate})})]


@pytest.mark.parametrize(
    ("mistake", "moves", "takeovers", "found"),
    [
        (Rules(decide=without_fences), 3, 1, "went back to a lower fence"),
        (Rules(decide=without_steps), 3, 1, "went back to an earlier share"),
        (Rules(undo=undo_with_candidate), 4, 0, "left a candidate"),
        (Rules(only_the_holder_commits=False), 3, 1, "on something else than the newest state"),
    ],
    ids=["no fence", "no order of shares", "undo brings a candidate back", "two hubs commit"],
)
def test_a_planted_mistake_is_found_with_the_steps_that_lead_to_it(
    mistake: Rules, moves: int, takeovers: int, found: str
) -> None:
    with pytest.raises(Violation, match=found) as violation:
        Check(moves=moves, takeovers=takeovers, rules=mistake).run()
    assert " / " in str(violation.value)
