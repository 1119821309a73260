"""A move with too few requests around it is led back and made again, and a counterexample never is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.incident.test_verdict import THIN, V2, V3, move, window

from incident.incident import TRIES, Cast, Incident, Seen
from incident.progress import Progress
from incident.report import Move, Report
from incident.traffic import Prompt
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.state import PreviewAction

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


class Moved:
    """A hub, its callers and its traces in one: R commits as soon as it is pressed, and is shown much later."""

    def __init__(self) -> None:
        self.generation = 1
        self.done: list[str] = []
        self.shown = asyncio.Event()

    async def row(self, tenant: str, route: str) -> Any:
        replica = SimpleNamespace(replica="r", state=AckState.PROVEN, flipped_ms=1.0, proven_ms=2.0)
        preview = SimpleNamespace(action=PreviewAction.ROLLBACK, target=SimpleNamespace(id=V2))
        pointer = SimpleNamespace(release=V3, generation=self.generation)
        return SimpleNamespace(pointer=pointer, preview=preview, replicas=[replica], flipped=1, proven=1, placed=1)

    async def press(self) -> Seen:
        self.generation += 1
        await self.shown.wait()
        self.done.append("shown")
        return Seen(commit_ms=40.0, flipped_ns=1)

    async def connect(self, tenant: str, count: int) -> None:
        pass

    async def stream(self, *_: object, at_most: int) -> AsyncIterator[list[Any]]:
        for _turn in range(0):
            yield []

    def burst(self, tenant: str, prompts: Sequence[Prompt], count: int) -> list[Any]:
        self.done.append("burst")
        self.shown.set()
        return []

    async def windows(self, *_: object) -> tuple[Any, ...]:
        return ENOUGH


async def test_requests_around_a_pressed_key_are_sent_at_the_commit_and_not_when_the_terminal_shows_it() -> None:
    hub: Any = Moved()
    prompts = [Prompt(id=str(n), messages=(), answers={V2: "good", V3: "bad"}) for n in range(3)]
    report = Report(labels={}, replicas=2)
    players = Cast(tenant="acme", releases={"v2": V2, "v3": V3}, prompts=prompts)
    incident = Incident(hub, hub, hub, players, report, Progress())
    incident._traces = hub
    async with asyncio.timeout(60):
        await incident.rollback_by(hub.press)
    assert hub.done == ["burst", "shown"]
    assert [made.commit_ms for made in report.moves] == [40.0]
