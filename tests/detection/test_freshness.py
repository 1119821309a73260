"""A slice of the table in docs/freshness.md, drawn again."""

from __future__ import annotations

import json

import pytest
from tests.detection.freshness import AGAIN, DOCS, KINDS, Promoted, table

KEPT = {(row["name"], row["within"]): row for row in json.loads((DOCS / "freshness.json").read_text())}
CHEAP = [kind for kind in KINDS if isinstance(kind, Promoted) or kind.share or kind.within == 14]
"""A year of histograms takes half a second, of a route on which releases are promoted a third of one."""


@pytest.mark.drawn(seconds=10, group="series")
@pytest.mark.parametrize("kind", CHEAP, ids=lambda kind: f"{kind.name}, {kind.within}")
def test_the_first_series_of_the_table_are_seen_as_it_says(kind) -> None:  # type: ignore[no-untyped-def]
    assert sum(kind.seen(seed) for seed in range(AGAIN)) == KEPT[kind.name, kind.within]["first"]


def test_the_document_has_the_table_of_what_was_drawn() -> None:
    assert table(list(KEPT.values())) in (DOCS / "freshness.md").read_text()
