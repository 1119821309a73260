"""The line being typed."""

from __future__ import annotations

import pytest

from loradeck.tui.text.line_editor import LONGEST, TypedLine


def typed(text: str, *keys: str) -> TypedLine:
    made = TypedLine()
    made.insert(text)
    for key in keys:
        assert made.key(key)
    return made


@pytest.mark.parametrize(
    ("keys", "text", "at"),
    [
        (["backspace"], "one tw", 6),
        (["left", "left", "delete"], "one to", 5),
        (["home", "delete"], "ne two", 0),
        (["home", "backspace"], "one two", 0),
        (["ctrl+w"], "one", 3),
        (["ctrl+w", "ctrl+w"], "", 0),
        (["left", "left", "left", "ctrl+u"], "two", 0),
        (["home", "right", "ctrl+k"], "o", 1),
        (["home", "end"], "one two", 7),
    ],
)
def test_editing_keys(keys: list[str], text: str, at: int) -> None:
    made = typed("one two", *keys)
    assert (made.text, made.at) == (text, at)


def test_other_keys_are_not_taken() -> None:
    assert not TypedLine().key("f5")


def test_text_goes_in_at_the_cursor() -> None:
    made = typed("ac", "left")
    made.insert("b")
    assert (made.text, made.at) == ("abc", 2)


def test_only_the_first_pasted_line_is_taken_and_control_characters_are_shown() -> None:
    assert typed("one\ntwo").text == "one"
    assert typed("a\x1b[2J").text == "a␛[2J"
    assert typed("").text == ""


def test_there_is_an_end() -> None:
    assert len(typed("x" * 10_000).text) == LONGEST


def test_the_cursor_stays_in_view() -> None:
    spans = typed("abcdefghij").spans(5)
    assert "".join(span.text for span in spans) == "ghij "
