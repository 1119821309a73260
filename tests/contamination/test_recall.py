"""What a search for items among rows, a scan and redaction find, and what they do not, is what docs/data.md says."""

from pathlib import Path

from tests.contamination import personal
from tests.contamination.recall import false_alarms, table

from loradeck.artifacts.rows.contamination import contaminated, folded_words, found_in

DOCUMENT = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def test_the_documented_recall_is_that_of_the_search() -> None:
    for line in (*table(), *personal.table()):
        assert line in DOCUMENT, line


def test_the_examples_rows_hold_no_item_and_the_page_says_so() -> None:
    assert false_alarms().startswith("0 of ")
    assert false_alarms() in DOCUMENT


def test_a_short_question_is_found_in_a_short_row_and_not_in_a_long_one() -> None:
    items = {"i": "Where is my parcel?"}
    assert contaminated(["Please help me with this: where is my parcel"], items) == {
        "i": "the question, with other words"
    }
    assert contaminated(["hello, " * 20 + "where is my parcel"], items) == {}
    assert contaminated(["is my parcel here"], {"i": "my parcel"}) == {}
    assert contaminated(["!!"], {"i": "??"}) == {}


def test_each_row_that_holds_an_item_is_named_with_its_line() -> None:
    question = "my parcel with the blue lamp and the two chairs has not come although it was brought yesterday"
    rows = ["hello", f"hi, {question}", question]
    assert [(line, item) for line, item, _ in found_in(rows, {"i": question})] == [(2, "i"), (3, "i")]


def test_an_instruction_that_all_items_begin_with_is_their_form() -> None:
    told = "Classify this ticket as billing, delivery or other, and answer with one word and nothing else, in English: "
    items = {
        f"i{n}": f"{told}my {thing} is broken" for n, thing in enumerate(("lamp", "chair", "desk", "shelf", "rug"))
    }
    assert contaminated([f"{told}where is my parcel", f"{told}my lamp has come"], items) == {}
    assert contaminated([f"Hello! {told}my lamp is broken"], items) == {"i0": "the question, with other words"}


def test_languages_without_spaces_are_compared_by_their_characters() -> None:
    assert folded_words("我的包裹 mit") == ["我", "的", "包", "裹", "mit"]
    assert contaminated(["请帮我看看这个:我的包裹在哪里还没有到"], {"i": "我的包裹在哪里还没有到"})


def test_letters_that_look_alike_are_one() -> None:
    assert folded_words("Ρаｒсеl\u200b, straße Ｎｏ") == ["parcel", "strasse", "no"]
