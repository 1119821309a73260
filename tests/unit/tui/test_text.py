"""Text from outside is data: no markup, no control sequences, and it fits its cells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from loradeck.client.terminal_text import clean
from loradeck.tui.text.spans import (
    Span,
    age,
    coarse_age,
    count,
    fit,
    fit_line,
    fit_right,
    latency,
    percent,
    plural,
    spread,
    width_of,
)


@given(st.text(), st.integers(0, 40))
def test_fitted_text_takes_exactly_its_cells(text: str, width: int) -> None:
    assert cell_len(fit(clean(text), width)) == width
    assert cell_len(fit_right(clean(text), width)) == width


@given(st.lists(st.text(max_size=12), max_size=6), st.integers(0, 40))
def test_fitted_lines_take_exactly_their_cells(texts: list[str], width: int) -> None:
    spans = [Span(clean(text)) for text in texts]
    assert width_of(fit_line(spans, width)) == width


def test_cut_text_says_that_it_is_cut() -> None:
    assert fit("a-very-long-name", 8) == "a-very-…"
    assert "".join(span.text for span in fit_line([Span("abc"), Span("def")], 5)) == "abcd…"
    assert "".join(span.text for span in fit_line([Span("abc"), Span("def")], 3)) == "ab…"


def test_the_right_part_is_dropped_where_both_do_not_fit() -> None:
    line = spread([Span("left")], [Span("right")], 10)
    assert "".join(span.text for span in line) == "left      "
    assert "".join(span.text for span in spread([Span("left")], [Span("right")], 12)) == "left   right"


@pytest.mark.parametrize(
    ("seconds", "short", "column"),
    [
        (0.42, "0.4s", "0 min"),
        (14, "14s", "0 min"),
        (59.9, "60s", "0 min"),
        (14 * 60, "14m", "14 min"),
        (5 * 3600 + 720, "5h12", "5 h"),
        (2 * 86400 + 11 * 3600, "2d11", "2 d 11 h"),
        (41 * 86400, "41d00", "41 d"),
        (400 * 86400, "400d00", "400 d"),
        (-3, "0.0s", "0 min"),
    ],
)
def test_ages(seconds: float, short: str, column: str) -> None:
    assert age(seconds) == short
    assert coarse_age(seconds) == column
    assert len(coarse_age(seconds)) <= 8


def test_unknown_figures_are_dashes_never_zero() -> None:
    assert percent(None) == "-"
    assert latency(None) == "-"
    assert (percent(0.0), percent(0.31), percent(0.9993), percent(1.0), latency(180.4), latency(1834)) == (
        "0.0",
        "31.0",
        "99.9",
        "100",
        "180 ms",
        "1.8 s",
    )


def test_counts_and_plurals() -> None:
    assert [count(n) for n in (0, 9_999, 35_118, 4_100_000)] == ["0", "9,999", "35k", "4.1M"]
    assert (plural(1, "node"), plural(1204, "node")) == ("1 node", "1,204 nodes")
