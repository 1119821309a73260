"""Written is not seen: when a frame counts as being on the terminal."""

from __future__ import annotations

import pytest
from tests.fakes.console_stage import Clock

from loradeck.tui.gate.seen_frames import AGAIN_S, ANSWER_S, OPEN_REQUESTS, Shown, Sight


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
def sight(clock: Clock, terminal: Terminal) -> Sight:
    return Sight(
        clock=clock,
        request=terminal.request,
        written=lambda: terminal.written,
        accepted=lambda: terminal.taken,
    )


def test_a_frame_is_seen_when_the_terminal_answers_after_it(sight: Sight, clock: Clock) -> None:
    sight.frame(shown(1), None)
    assert sight.look().seen_at is None
    clock.now += 3
    sight.answered()
    assert sight.look().seen_at == clock.now
    assert sight.look().shown == shown(1)


def test_the_answer_to_an_older_frame_proves_nothing_about_a_newer_one(sight: Sight, clock: Clock) -> None:
    sight.frame(shown(1), None)
    sight.frame(shown(2), None)
    sight.answered()
    assert sight.look().seen_at is None
    sight.answered()
    assert sight.look().seen_at == clock.now


def test_the_same_frame_again_asks_nothing_and_keeps_its_time(sight: Sight, clock: Clock, terminal: Terminal) -> None:
    sight.frame(shown(1), None)
    sight.answered()
    at = clock.now
    clock.now += 10
    sight.frame(shown(1), None)
    assert terminal.requests == 1
    assert sight.look().seen_at == at


def test_a_frame_that_returns_has_to_be_seen_again(sight: Sight, clock: Clock) -> None:
    sight.frame(shown(1), None)
    sight.answered()
    sight.frame(shown(2), None)
    sight.answered()
    clock.now += 5
    sight.frame(shown(1), None)
    assert sight.look().seen_at is None


def test_a_question_is_a_frame_of_its_own(sight: Sight) -> None:
    sight.frame(shown(1), None)
    sight.answered()
    sight.frame(None, 7)
    assert (sight.look().question, sight.look().seen_at) == (7, None)


def test_a_terminal_that_never_answers_is_taken_at_the_writers_word(
    sight: Sight, clock: Clock, terminal: Terminal
) -> None:
    terminal.written = 100
    sight.frame(shown(1), None)
    clock.now += ANSWER_S + 0.1
    terminal.taken = 99
    assert sight.look().seen_at is None
    terminal.taken = 104
    assert sight.look().seen_at == clock.now
    requests = terminal.requests
    sight.frame(shown(2), None)
    assert terminal.requests == requests
    assert sight.look().seen_at is not None


def test_a_slow_terminal_that_has_answered_once_is_waited_for(sight: Sight, clock: Clock, terminal: Terminal) -> None:
    sight.frame(shown(1), None)
    sight.answered()
    sight.frame(shown(2), None)
    terminal.taken = terminal.written + 1000
    clock.now += 60
    assert sight.look().seen_at is None
    assert sight.waiting


def test_an_answer_nobody_asked_for_proves_nothing(sight: Sight) -> None:
    sight.answered()
    sight.frame(shown(1), None)
    assert sight.look().seen_at is None


def test_a_lost_answer_delays_and_never_lies(sight: Sight, clock: Clock, terminal: Terminal) -> None:
    """The first of two answers is lost: the one that comes counts for the older frame only."""
    sight.frame(shown(1), None)
    sight.answered()
    sight.frame(shown(2), None)
    sight.frame(shown(3), None)
    sight.answered()
    assert sight.look().seen_at is None
    requests = terminal.requests
    clock.now += AGAIN_S + 0.1
    sight.look()
    sight.look()
    assert terminal.requests == requests + 1
    sight.answered()
    assert sight.look().seen_at == clock.now


def test_requests_do_not_pile_up_without_end(sight: Sight, clock: Clock, terminal: Terminal) -> None:
    sight.frame(shown(1), None)
    sight.answered()
    sight.frame(shown(2), None)
    for _ in range(200):
        clock.now += AGAIN_S + 0.1
        sight.look()
    assert terminal.requests <= OPEN_REQUESTS + 1
