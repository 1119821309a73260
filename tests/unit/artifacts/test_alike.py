"""Texts that are almost the same are found, and texts that share a form are not."""

from __future__ import annotations

import random

from loradeck.artifacts.rows import near_duplicates
from loradeck.artifacts.rows.near_duplicates import MOST, NEAR_COPY, OWN, triples

LONG = "my parcel with the blue lamp and the two chairs has not come although your page says it was brought yesterday"


def test_a_row_that_stands_there_twice_is_named_once() -> None:
    assert near_duplicates.doubles([LONG, "something else altogether", LONG + "."]) == [2]


def test_rows_of_one_form_are_not_alike() -> None:
    names = ("lamp", "chair", "table", "shelf", "carpet", "mirror")
    texts = [f"my {one} has come with a scratch on its {other}, what now" for one in names for other in names]
    assert near_duplicates.doubles(texts) == []


def test_items_that_differ_in_a_word_are_a_cluster_and_other_questions_are_not() -> None:
    copies = [LONG.replace("blue", colour) for colour in ("red", "green", "grey")]
    texts = ["when do you open", LONG, *copies, "when do you close", "something else altogether"]
    assert near_duplicates.clusters(texts) == [0, 1, 1, 1, 1, 5, 6]


def test_clusters_are_found_through_others_and_in_any_order() -> None:
    """The first and the last share too little, and both are near copies of the one between."""
    words = LONG.split()
    between = " ".join([*words[:-2], "today", "instead"])
    last = " ".join(["your", "box", *words[2:-2], "today", "instead"])
    assert near_duplicates.clusters([LONG, last]) == [0, 1]
    assert near_duplicates.clusters([LONG, last, between]) == [0, 0, 0]


def test_more_near_copies_than_are_looked_at_for_one_triple_are_one_cluster() -> None:
    words = LONG.split()
    copies = [" ".join([*words[:-2], "today", str(number)]) for number in range(2 * MOST)]
    assert set(near_duplicates.clusters(copies)) == {0}


def test_an_instruction_before_each_question_makes_no_near_copies() -> None:
    draw = random.Random(1)
    form = " ".join(str(draw.random()) for _ in range(80))
    texts = [f"{form} {' '.join(str(draw.random()) for _ in range(OWN + 2))}" for _ in range(40)]
    assert near_duplicates.clusters(texts) == list(range(40))


def test_clusters_by_the_rarest_triples_are_those_of_all_pairs() -> None:
    draw = random.Random(2)
    bases = [[draw.choice("abcdefghijklmnopqrstuvwxyz") * 3 for _ in range(30)] for _ in range(12)]
    texts = []
    for _ in range(60):
        words = list(draw.choice(bases))
        for _ in range(draw.randrange(4)):
            words[draw.randrange(30)] = str(draw.random())
        texts.append(" ".join(words))
    sets, leads = [triples(text) for text in texts], list(range(60))
    for one in range(60):
        for other in range(one):
            both = len(sets[one] & sets[other])
            if both >= NEAR_COPY * len(sets[one] | sets[other]) and leads[one] != leads[other]:
                high, low = max(leads[one], leads[other]), min(leads[one], leads[other])
                leads = [low if lead == high else lead for lead in leads]
    assert 12 < len(set(leads)) < 60
    assert near_duplicates.clusters(texts) == leads
