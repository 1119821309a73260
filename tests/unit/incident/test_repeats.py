"""A move with too few requests around it is led back and made again, and a counterexample never is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from tests.unit.incident.test_verdict import THIN, move, window

from incident.incident import TRIES, Incident
from incident.progress import Progress
from incident.report import Move, Report

ENOUGH = (window("gpu-01"), window("gpu-02"))


class Moves:
    """Moves that come out as written, in the place of real ones."""

    def __init__(self, *windows: Sequence[Any], **fields: Any) -> None:
        self.made: list[tuple[str, int | None]] = []
        self.report = Report(labels={}, replicas=2)
        self._windows = list(windows)
        self._fields = fields
        nothing = cast(Any, None)
        self.incident = Incident(nothing, nothing, nothing, nothing, self.report, Progress())

    async def make(self, of: int | None) -> Move:
        return self._add("R", of, tuple(self._windows.pop(0)))

    async def back(self, of: int | None) -> Move:
        return self._add("u", of, THIN)

    def _add(self, kind: str, of: int | None, windows: tuple[Any, ...]) -> Move:
        self.made.append((kind, of))
        made = move(len(self.report.moves) + 1, kind=kind, windows=windows, of=of, **self._fields)
        self.report.moves.append(made)
        return made

    async def play(self) -> list[tuple[str, int | None]]:
        await self.incident._with_evidence(self.make, back=self.back)
        return self.made


async def test_a_move_with_enough_requests_is_made_once() -> None:
    assert await Moves(ENOUGH).play() == [("R", None)]


async def test_a_thin_move_is_led_back_and_made_again_until_there_are_enough() -> None:
    assert await Moves(THIN, ENOUGH).play() == [("R", None), ("u", 1), ("R", 1)]
    moves = Moves(THIN, THIN, ENOUGH)
    assert await moves.play() == [("R", None), ("u", 1), ("R", 1), ("u", 1), ("R", 1)]
    moves.report.judge_moves(1)
    assert moves.report.held


async def test_it_ends_when_the_tries_are_used_up_and_says_what_is_missing() -> None:
    moves = Moves(*[THIN] * TRIES)
    made = await moves.play()
    assert len([kind for kind, _ in made if kind == "R"]) == TRIES
    moves.report.judge_moves(1)
    assert moves.report.exit_status == 3


@pytest.mark.parametrize("flaw", [{"seen_late": 1}, {"proven_ms": None}])
async def test_no_repeat_follows_a_counterexample_or_a_move_that_was_not_proven(flaw: dict[str, Any]) -> None:
    assert await Moves(THIN, **flaw).play() == [("R", None)]
