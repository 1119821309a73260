"""What is next on a route between a signal and new weights."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.client import loop_words as words
from loradeck.schemas.freshness import LoopRow


def row(step: str | None = None, gate: bool | None = None, **more: Any) -> LoopRow:
    loop = {"dataset": "d" * 64, "name": "labels", "rows": 1200, "step": step, "by": "x", "gate": gate}
    calm: dict[str, Any] = {"signals": (), "remedy": "nothing", "wrong": 0, "loop": loop if step else None}
    return LoopRow.model_validate({"tenant": "acme", "route": "chat", "label": "v1", "at_ms": 1, **calm, **more})


@pytest.mark.parametrize(
    ("of", "next_"),
    [
        (row(), "-"),
        (row(wrong=5), "-"),
        (row(signals=("bad",), remedy="prompt", wrong=5), "loradeck freshness acme"),
        (row(signals=("bad",), remedy="train", wrong=5), "loradeck backlog ls acme --route chat --consent CLASS"),
        (row("labelled"), "loradeck job train SPEC.toml"),
        (row("labelled", frozen="an incident"), "wait: training is frozen"),
        (row("failed"), "loradeck job show x"),
        (row("trained"), "loradeck job evaluate acme RELEASE --route chat --suite SUITE"),
        (row("trained", gate=False), "loradeck gate show acme chat"),
        (row("trained", gate=True), "loradeck candidate start acme chat RELEASE"),
        (row("candidate"), "loradeck candidate show acme chat"),
        (row("live"), "-"),
    ],
)
def test_the_next_step_is_a_command(of: LoopRow, next_: str) -> None:
    assert words.next_step(of) == next_


def test_what_there_is_not_is_no_zero() -> None:
    of = row("trained", candidate="v2", permille=50)
    assert [say(of) for say in (words.labelled, words.step, words.gate, words.candidate)] == [
        "1,200",
        "trained x",
        "-",
        "v2 5 %",
    ]
    assert words.signals(row(signals=("corrected", "bad"), replayed=28)) == "replayed: corrected, bad"
    assert [words.labelled(row()), words.step(row()), words.candidate(row())] == ["-"] * 3
