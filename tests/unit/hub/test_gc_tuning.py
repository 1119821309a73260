"""When the collector goes through everything: after links have come or gone, once they no longer do."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from loradeck.hub.links.gc_tuning import FEW, GcTuning


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """Generations of the collections while the test runs. The collector is as before afterwards."""
    found: list[int] = []

    def noted(phase: str, info: dict[str, Any]) -> None:
        if phase == "stop":
            found.append(info["generation"])

    thresholds = gc.get_threshold()
    gc.disable()
    gc.callbacks.append(noted)
    yield found
    gc.callbacks.remove(noted)
    gc.freeze()  # what the tests have imported, as tests/conftest.py has it
    gc.set_threshold(*thresholds)
    gc.enable()


def test_everything_is_gone_through_once_after_a_wave_of_links(collections: list[int]) -> None:
    tuning = GcTuning()
    for _ in range(FEW):
        tuning.changed()
    tuning.tick(FEW)
    assert collections == []  # they are still coming
    tuning.tick(FEW)
    tuning.tick(FEW)
    assert collections == [2]
    assert not any(one is tuning for one in gc.get_objects()), "what stays is frozen"


def test_a_few_links_are_left_to_the_collector(collections: list[int]) -> None:
    tuning = GcTuning()
    for _ in range(FEW):
        tuning.changed()
    for _ in range(3):
        tuning.tick(10 * FEW + 10)
    assert collections == []


def test_what_links_that_ended_have_left_is_found(collections: list[int]) -> None:
    class Gone:
        itself: Gone

    tuning = GcTuning()
    gone = Gone()
    gone.itself = gone
    tuning.freeze()
    del gone
    before = sum(isinstance(thing, Gone) for thing in gc.get_objects())
    gc.unfreeze()
    tuning.freeze()
    for _ in range(FEW):
        tuning.changed()
    tuning.tick(0)
    tuning.tick(0)
    assert before == 0, "it was frozen, and the collector did not see it"
    gc.unfreeze()
    assert not any(isinstance(thing, Gone) for thing in gc.get_objects())
