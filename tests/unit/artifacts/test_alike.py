"""Texts that are almost the same are found, and texts that share a form are not."""

from __future__ import annotations

from loradeck.artifacts import near_duplicates

LONG = "my parcel with the blue lamp and the two chairs has not come although your page says it was brought yesterday"


def test_a_row_that_is_almost_an_item_is_named_with_its_line() -> None:
    items = {"i1": LONG.upper() + "!", "i2": "where do I change my address for the newsletter that you send on mondays"}
    found = near_duplicates.find(["hello there, how are you", LONG, LONG.replace("chairs", "tables")], items)
    assert (2, "i1") in found.items
    assert {line for line, _ in found.items} <= {2, 3}


def test_a_row_that_stands_there_twice_is_counted_once() -> None:
    assert near_duplicates.find([LONG, "something else altogether", LONG + "."], {}).doubles == 1


def test_rows_of_one_form_are_not_alike() -> None:
    names = ("lamp", "chair", "table", "shelf", "carpet", "mirror")
    texts = [f"my {one} has come with a scratch on its {other}, what now" for one in names for other in names]
    assert near_duplicates.find(texts, {}).doubles == 0
