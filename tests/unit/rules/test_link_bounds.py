"""What one node's messages may take of the hub."""

from __future__ import annotations

import json

import pytest

from loradeck.rules.serving.link_bounds import (
    BURST_BYTES,
    BYTES_A_SECOND,
    LARGE,
    LEAST_BYTES,
    LONGEST_BAR_S,
    Allowance,
    bar_s,
    has_too_many_rows,
    may_be_long,
)

TABLE = b'{"type":"table_state","entries":[]}'


def test_only_what_was_asked_for_may_be_long_and_no_longer_than_its_type() -> None:
    asked = frozenset({"table_state"})
    assert may_be_long(TABLE, asked)
    assert not may_be_long(TABLE, frozenset())
    assert not may_be_long(TABLE, frozenset({"job_event"}))
    assert not may_be_long(b'{"type":"report","x":"table_state"}', asked)
    assert not may_be_long(TABLE + b" " * LARGE["table_state"], asked)


@pytest.mark.parametrize("empty", [b"{}", b"[]", b"[[]]", b'{"a":{}}'])
def test_a_message_of_rows_with_nothing_in_them_is_told_apart(empty: bytes) -> None:
    assert has_too_many_rows(b'{"type":"report","traffic":[' + b",".join([empty] * 2_000) + b"]}")


def test_a_short_message_may_have_any_rows() -> None:
    assert not has_too_many_rows(b"[" + b",".join([b"{}"] * 100) + b"]")


def test_what_a_text_says_is_no_row() -> None:
    text = json.dumps({"type": "sample_rows", "samples": [{"answer": '{{"[[' * 5_000 + "\\"}]}).encode()
    assert text.count(b"{") * 40 > len(text)
    assert not has_too_many_rows(text)


def test_two_refusals_cost_nothing_and_the_others_more_each_time() -> None:
    assert [bar_s(n) for n in (1, 2, 3, 4, 5)] == [0, 0, 1, 2, 4]
    assert bar_s(100) == LONGEST_BAR_S


def test_a_node_that_sends_more_than_its_burst_is_read_again_when_it_has_been_quiet_for_long_enough() -> None:
    allowance, now = Allowance(100.0), 100.0
    assert allowance.take(BURST_BYTES, now) == 0
    rest = allowance.take(BYTES_A_SECOND, now)
    assert rest == 1
    assert allowance.take(BYTES_A_SECOND // 2, now + rest) == 0.5
    assert allowance.take(LEAST_BYTES, now + 60) == 0
    assert allowance.left == BURST_BYTES - LEAST_BYTES


def test_a_short_message_counts_as_more_than_its_bytes() -> None:
    allowance = Allowance(0.0)
    for _ in range(BURST_BYTES // LEAST_BYTES):
        assert allowance.take(22, 0.0) == 0
    assert allowance.take(22, 0.0) > 0
