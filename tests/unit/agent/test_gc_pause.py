"""The garbage collector's pause at a start: off in the block, on again after it however it ends."""

from __future__ import annotations

import gc

import pytest

from loradeck_agent.host import process


def test_it_is_off_in_the_block_and_on_after_it_and_what_was_made_is_left_out() -> None:
    before = gc.get_freeze_count()
    with process.paused():
        assert not gc.isenabled()
        made: list[list[int]] = [[] for _ in range(100)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_it_is_on_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="broken"), process.paused():
        raise ValueError("broken")
    assert gc.isenabled()
