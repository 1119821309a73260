"""Texts that are almost the same are found, and texts that share a form are not."""

from __future__ import annotations

from loradeck.artifacts.rows import near_duplicates

LONG = "my parcel with the blue lamp and the two chairs has not come although your page says it was brought yesterday"


def test_a_row_that_stands_there_twice_is_named_once() -> None:
    assert near_duplicates.doubles([LONG, "something else altogether", LONG + "."]) == [2]


def test_rows_of_one_form_are_not_alike() -> None:
    names = ("lamp", "chair", "table", "shelf", "carpet", "mirror")
    texts = [f"my {one} has come with a scratch on its {other}, what now" for one in names for other in names]
    assert near_duplicates.doubles(texts) == []
