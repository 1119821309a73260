"""How various texts are: distinct-n, self-BLEU and what is left of the tail, on texts that can be counted by hand."""

from __future__ import annotations

import math
from statistics import fmean

import pytest

from loradeck.rules.data.synthetic import share
from loradeck.rules.data.variety import COMPARED, covered, cut_to, distinct, rare, self_bleus, tail_is_lost, tails


def mean_bleu(texts: list[list[str]]) -> float:
    return fmean(self_bleus(texts) or [0.0])


def words(*texts: str) -> list[list[str]]:
    return [text.split() for text in texts]


def test_runs_of_words_are_counted_once_over_all_texts() -> None:
    texts = words("a b a b", "b a", "c")
    assert distinct(texts, 1) == 3
    assert distinct(texts, 2) == 2, "a b, b a"


def test_texts_are_compared_on_equally_many_words() -> None:
    assert cut_to(words("a b c", "d e", "f"), 4) == words("a b c", "d")
    assert cut_to(words("a b"), 9) == words("a b")
    assert cut_to(words("a", "a", "b", "b", "c", "c"), 3) == words("a", "b", "c"), "not those of the first source alone"


def test_the_same_text_again_and_again_is_wholly_like_itself_and_other_words_hardly() -> None:
    assert mean_bleu(words(*["a b c d e"] * 3)) == pytest.approx(1)
    assert mean_bleu(words("a b c d e", "f g h i j")) < 0.05
    assert mean_bleu(words("a b")) == mean_bleu([]) == 0


def test_a_text_is_held_against_all_others_by_bleu() -> None:
    """The first text has 3 of 4 words, 2 of 3 pairs, 1 of 2 triples and no four in the other; both are as long."""
    expected = math.exp(sum(map(math.log, (3 / 4, 2 / 3, 1 / 2, 0.1 / 1))) / 4)
    assert mean_bleu(words("a b c d", "a b c e")) == pytest.approx(expected)


def test_a_text_does_not_match_itself_and_short_ones_pay_for_what_they_leave_out() -> None:
    both = words("a", "a b c d")
    short = math.exp(1 - 4 / 1) * 1.0
    long = math.exp(sum(map(math.log, (1 / 4, 0.1 / 3, 0.1 / 2, 0.1 / 1))) / 4)
    assert mean_bleu(both) == pytest.approx((short + long) / 2)


def test_of_very_many_texts_some_are_taken_in_equal_steps() -> None:
    many = words(*(["a b c d"] * (2 * COMPARED)))
    many[1::2] = words(*(f"x{n} y{n} z{n} w{n}" for n in range(COMPARED)))
    assert mean_bleu(many) == pytest.approx(1), "every second one is looked at"


def test_rare_words_are_those_of_one_text_in_twenty() -> None:
    texts = words(*(f"all own{n}" for n in range(38)), "all two", "all two")
    assert rare(texts) == {"two", *(f"own{n}" for n in range(38))}
    assert rare(words("a b", "b")) == {"a"}


def test_what_is_left_of_a_tail_is_counted_with_how_much_there_was() -> None:
    assert covered({"a", "b", "c"}, words("a x", "a c")) == (2, 3)
    assert covered((), words("a")) == (0, 0)


def test_a_tail_is_lost_where_rows_have_surely_fewer_of_the_words_than_people_of_the_other_half() -> None:
    assert tail_is_lost(share(20, 200), share(60, 200))
    assert not tail_is_lost(share(50, 200), share(60, 200)), "which may be chance"
    assert not tail_is_lost(share(90, 200), share(60, 200))
    assert not tail_is_lost(share(20, 200), share(40, 100)), "an older report's, of two different tails"


def test_tails_are_of_one_half_of_peoples_texts_and_counted_in_as_many_words_as_the_other_has() -> None:
    theirs = words("a x", "b x", "c y", "b y")
    assert tails(words("a", "q", "q", "q", "q", "q", "b", "c"), theirs) == ((1, 4), (2, 4)), "of a, x, c and y: a; x, y"
