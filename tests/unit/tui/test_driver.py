"""The terminal's answers are never taken for keys, however their bytes are cut."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual import events
from textual._xterm_parser import XTermParser

from loradeck.tui.terminal.driver import AnswerFilter, CountedFile

ANSWER = "\x1b[24;80R"


def feed(pieces: Sequence[str], *, expecting: bool = True) -> tuple[str, int]:
    """All that was typed, and the answers, over several reads."""
    filter_ = AnswerFilter()
    typed, answers = "", 0
    for piece in pieces:
        text, count = filter_.feed(piece, expecting=expecting)
        typed += text
        answers += count
    return typed, answers


def test_an_answer_is_no_key() -> None:
    assert feed([ANSWER]) == ("", 1)


def test_keys_around_answers_are_kept() -> None:
    assert feed([f"j{ANSWER}k{ANSWER}{ANSWER}"]) == ("jk", 3)


@pytest.mark.parametrize("cut", range(2, len(ANSWER)))
def test_an_answer_cut_after_its_bracket_is_put_together(cut: int) -> None:
    assert feed([ANSWER[:cut], ANSWER[cut:]]) == ("", 1)


def test_an_answer_cut_after_its_escape_types_no_R() -> None:
    assert feed(["\x1b", ANSWER[1:]]) == ("\x1b", 1)
    assert feed(["\x1b", "[24", ";80", "R"]) == ("\x1b", 1)


@given(st.data())
def test_no_cut_of_answers_and_other_keys_ever_types_an_R(data: st.DataObject) -> None:
    text = "".join(
        data.draw(st.lists(st.sampled_from([ANSWER, "\x1b[1;1R", "j", "\x1b[A", "y", "\x1b[6~", "q"]), max_size=6))
    )
    pieces = [text]
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(pieces) - 1))
        cut = data.draw(st.integers(0, len(pieces[at])))
        pieces[at : at + 1] = [pieces[at][:cut], pieces[at][cut:]]
    typed, answers = feed([piece for piece in pieces if piece])
    assert "R" not in typed
    assert answers == text.count("R")


def test_a_typed_R_is_a_key_also_while_an_answer_is_awaited() -> None:
    assert feed(["R"]) == ("R", 0)
    assert feed(["\x1b[B", "R"]) == ("\x1b[BR", 0)
    assert feed(["\x1b", "R"]) == ("\x1bR", 0)


def test_nothing_is_held_back_when_no_answer_is_awaited() -> None:
    assert feed(["\x1b[", "A"], expecting=False) == ("\x1b[A", 0)


def test_textuals_own_parser_would_have_typed_the_R() -> None:
    """The hazard exists: this is why the filter stands in front of the parser."""
    parser = XTermParser()
    keys = [m for piece in ("\x1b[24;80",) for m in parser.feed(piece) if isinstance(m, events.Key)]
    while not keys:
        keys += [m for m in parser.tick() if isinstance(m, events.Key)]
    keys += [m for m in parser.feed("R") if isinstance(m, events.Key)]
    assert keys[-1].key == "R"


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_swallows_writes_and_never_raises() -> None:
    file = CountedFile(Gone())
    assert file.write("abc") == 3
    file.write("de")
    assert file.taken == 5


def test_the_file_counts_only_what_was_taken() -> None:
    target = io.StringIO()
    file = CountedFile(target)
    file.write("hello")
    assert (file.taken, target.getvalue()) == (5, "hello")
