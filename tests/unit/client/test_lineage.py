"""Lineage: as far back as there is a record, and never round in circles."""

from __future__ import annotations

from tests.fakes import console_fleet as seed

from loradeck.client.lineage import ancestors, children


def test_ancestors_are_nearest_first_and_end_where_the_record_does() -> None:
    v7, v8, v9, bolt = seed.adapters()
    known = {one.digest: one for one in (v7, v8, v9, bolt)}
    assert ancestors(v9, known) == [v8, v7]
    assert ancestors(bolt, known) == []
    del known[v7.digest]
    assert ancestors(v9, known) == [v8]
    assert children(v8, known) == [v9]
    assert children(v9, known) == []


def test_a_record_that_names_itself_ends() -> None:
    v7, v8, v9, _ = seed.adapters()
    round_ = v7.model_copy(update={"manifest": v7.manifest.model_copy(update={"parent": v9.digest})})
    known = {one.digest: one for one in (round_, v8, v9)}
    assert ancestors(v9, known) == [v8, round_]
