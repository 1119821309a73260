"""One sanitiser for the console and the commands: what could steer a terminal, or hide itself, is seen instead."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.client.terminal_text import clean


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("[red]x[/red]", "[red]x[/red]"),
        ("a\x1b[2Jb", "a␛[2Jb"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("two\nlines\there\r", "two lines here "),
        ("bell\x07", "bell␇"),
        ("nul\x00", "nul␀"),
        ("\x7f\x9b31m", "\ufffd\ufffd31m"),
        ("right\u202eleft\u202c", "right\ufffdleft\ufffd"),
        ("\u2066isolated\u2069", "\ufffdisolated\ufffd"),
        ("\u200f\u061c", "\ufffd\ufffd"),
        ("no\u00a0break", "no\ufffdbreak"),
        ("thin\u2009wide\u3000", "thin\ufffdwide\ufffd"),
        ("zero\u200bwidth\u200d\ufeff", "zero\ufffdwidth\ufffd\ufffd"),
        ("line\u2028paragraph\u2029", "line\ufffdparagraph\ufffd"),
        ("\ud800\ue000\u0378", "\ufffd\ufffd\ufffd"),
        ("価格 ok é ⠿ …", "価格 ok é ⠿ …"),
    ],
)
def test_what_steers_a_terminal_or_hides_itself_becomes_visible(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(st.text(st.characters()))
def test_whatever_is_cleaned_controls_nothing_keeps_its_length_and_stays_when_cleaned_again(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) == len(text)
    assert all(char == " " or unicodedata.category(char)[0] not in "CZ" for char in cleaned)
    assert clean(cleaned) == cleaned
