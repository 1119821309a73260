"""What live releases share: rows, a recipe, a move to another base, a batch of promotes. Nothing else ties them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.fakes import console_fleet as seed

from loradeck.rules.data.related import BATCH_MS, Member, shared
from loradeck.schemas.log import EventKind
from loradeck.schemas.related import Shared

PROMOTE = next(row.last_event for row in seed.tenants(seed.Log()) if row.tenant == "acme")
assert PROMOTE is not None
LATER = PROMOTE.model_copy(update={"txn": "f" * 32, "at_ms": PROMOTE.at_ms + BATCH_MS})
ONE = Member(datasets=frozenset("ab"), recipe="r", base="B2", left_base="B1", move=PROMOTE)
NOTHING = Member(datasets=frozenset("c"), recipe="s", base="B3", left_base="B3", move=None)


@pytest.mark.parametrize(
    ("other", "ties"),
    [
        (NOTHING, []),
        (replace(NOTHING, datasets=frozenset("bc")), [(Shared.DATASET, "b")]),
        (replace(NOTHING, recipe="r"), [(Shared.RUN, "r")]),
        (replace(NOTHING, base="B2", left_base="B1"), [(Shared.BASE_MOVE, "B1 B2")]),
        (replace(NOTHING, base="B2", left_base="B2"), []),
        (replace(NOTHING, move=LATER), [(Shared.BATCH, "ci-bot")]),
        (replace(NOTHING, move=LATER.model_copy(update={"at_ms": LATER.at_ms + 1})), []),
        (replace(NOTHING, move=LATER.model_copy(update={"actor": "op1"})), []),
        (replace(NOTHING, move=LATER.model_copy(update={"kind": EventKind.ROLLBACK})), []),
        (
            replace(NOTHING, move=PROMOTE.model_copy(update={"kind": EventKind.REWIND, "actor": "op1"})),
            [(Shared.BATCH, "ci-bot")],
        ),
    ],
)
def test_what_is_shared_is_named(other: Member, ties: list[tuple[Shared, str]]) -> None:
    assert shared(ONE, other) == ties


def test_a_release_that_never_changed_its_base_shares_no_move() -> None:
    still = replace(ONE, left_base="B2")
    assert shared(still, replace(NOTHING, base="B2", left_base="B2")) == []
    assert shared(replace(ONE, recipe=None), replace(NOTHING, recipe=None)) == []
