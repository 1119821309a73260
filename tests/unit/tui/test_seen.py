"""Written is not seen: when a frame counts as being on the terminal."""

from __future__ import annotations

import pytest
from tests.fakes.console_stage import Clock

from loradeck.tui.key_checks.seen_frames import AGAIN_S, ANSWER_S, OPEN_REQUESTS, SeenFrames, Shown


def shown(generation: int) -> Shown:
    return Shown(tenant="acme", route="production", generation=generation, action="rollback")


class Terminal:
    """Counts what is written to it and what it has taken."""

    def __init__(self) -> None:
        self.written = 0
        self.taken = 0
        self.requests = 0

    def request(self) -> None:
        self.requests += 1
        self.written += 4


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def seen(clock: Clock, terminal: Terminal) -> SeenFrames:
    return SeenFrames(
        clock=clock,
        request=terminal.request,
        written=lambda: terminal.written,
        accepted=lambda: terminal.taken,
    )


def test_a_frame_is_seen_when_the_terminal_answers_after_it(seen: SeenFrames, clock: Clock) -> None:
    seen.frame(shown(1), None)
    assert seen.look().seen_at is None
    clock.now += 3
    seen.answered()
    assert seen.look().seen_at == clock.now
    assert seen.look().shown == shown(1)


def test_the_answer_to_an_older_frame_proves_nothing_about_a_newer_one(seen: SeenFrames, clock: Clock) -> None:
    seen.frame(shown(1), None)
    seen.frame(shown(2), None)
    seen.answered()
    assert seen.look().seen_at is None
    seen.answered()
    assert seen.look().seen_at == clock.now


def test_the_same_frame_again_asks_nothing_and_keeps_its_time(
    seen: SeenFrames, clock: Clock, terminal: Terminal
) -> None:
    seen.frame(shown(1), None)
    seen.answered()
    at = clock.now
    clock.now += 10
    seen.frame(shown(1), None)
    assert terminal.requests == 1
    assert seen.look().seen_at == at


def test_a_frame_that_returns_has_to_be_seen_again(seen: SeenFrames, clock: Clock) -> None:
    seen.frame(shown(1), None)
    seen.answered()
    seen.frame(shown(2), None)
    seen.answered()
    clock.now += 5
    seen.frame(shown(1), None)
    assert seen.look().seen_at is None


def test_a_question_is_a_frame_of_its_own(seen: SeenFrames) -> None:
    seen.frame(shown(1), None)
    seen.answered()
    seen.frame(None, 7)
    assert (seen.look().question, seen.look().seen_at) == (7, None)


def test_a_terminal_that_never_answers_is_taken_at_the_writers_word(
    seen: SeenFrames, clock: Clock, terminal: Terminal
) -> None:
    terminal.written = 100
    seen.frame(shown(1), None)
    clock.now += ANSWER_S + 0.1
    terminal.taken = 99
    assert seen.look().seen_at is None
    terminal.taken = 104
    assert seen.look().seen_at == clock.now
    requests = terminal.requests
    seen.frame(shown(2), None)
    assert terminal.requests == requests
    assert seen.look().seen_at is not None


def test_a_slow_terminal_that_has_answered_once_is_waited_for(
    seen: SeenFrames, clock: Clock, terminal: Terminal
) -> None:
    seen.frame(shown(1), None)
    seen.answered()
    seen.frame(shown(2), None)
    terminal.taken = terminal.written + 1000
    clock.now += 60
    assert seen.look().seen_at is None
    assert seen.waiting


def test_an_answer_nobody_asked_for_proves_nothing(seen: SeenFrames) -> None:
    seen.answered()
    seen.frame(shown(1), None)
    assert seen.look().seen_at is None


def test_a_lost_answer_delays_and_never_lies(seen: SeenFrames, clock: Clock, terminal: Terminal) -> None:
    """The first of two answers is lost: the one that comes counts for the older frame only."""
    seen.frame(shown(1), None)
    seen.answered()
    seen.frame(shown(2), None)
    seen.frame(shown(3), None)
    seen.answered()
    assert seen.look().seen_at is None
    requests = terminal.requests
    clock.now += AGAIN_S + 0.1
    seen.look()
    seen.look()
    assert terminal.requests == requests + 1
    seen.answered()
    assert seen.look().seen_at == clock.now


def test_requests_do_not_pile_up_without_end(seen: SeenFrames, clock: Clock, terminal: Terminal) -> None:
    seen.frame(shown(1), None)
    seen.answered()
    seen.frame(shown(2), None)
    for _ in range(200):
        clock.now += AGAIN_S + 0.1
        seen.look()
    assert terminal.requests <= OPEN_REQUESTS + 1
