"""When an engine counts as one that makes no step."""

from __future__ import annotations

from loradeck.rules.serving.engine_steps import STILL_S, StepWatch


def test_an_engine_without_a_step_while_it_is_asked_stands_still_after_five_seconds() -> None:
    watch = StepWatch()
    assert [watch.look(at, ("7.0", "2.0"), is_asked=True) for at in (100.0, 102.0, 104.0)] == [None] * 3
    assert watch.look(100 + STILL_S, ("7.0", "2.0"), is_asked=True) == 100
    assert watch.look(110.0, ("7.0", "2.0"), is_asked=True) == 100


def test_any_counter_that_changes_is_a_step() -> None:
    watch = StepWatch()
    for at in range(0, 60, 2):
        assert watch.look(float(at), ("7.0", str(at)), is_asked=True) is None


def test_an_engine_that_nobody_asks_does_not_stand_still_and_has_its_time_once_it_is_asked() -> None:
    watch = StepWatch()
    for at in range(0, 60, 2):
        assert watch.look(float(at), ("7.0",), is_asked=False) is None
    assert watch.look(60.0, ("7.0",), is_asked=True) is None
    assert watch.look(64.0, ("7.0",), is_asked=True) is None
    assert watch.look(66.0, ("7.0",), is_asked=True) == 60


def test_a_look_that_comes_a_little_early_counts_all_the_same() -> None:
    watch = StepWatch()
    assert [watch.look(at, ("7.0",), is_asked=True) for at in (100.004, 102.002, 104.002)] == [None] * 3
    assert watch.look(106.003, ("7.0",), is_asked=True) == 100.004


def test_of_an_engine_that_does_not_say_its_steps_nothing_is_known() -> None:
    watch = StepWatch()
    for at in range(0, 60, 2):
        assert watch.look(float(at), None, is_asked=True) is None
