"""How near the target of R is: on the screen as it was measured, with every replica that lacks it named."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.state import Readiness, ReplicaReadiness
from loradeck.schemas.table import Gap
from loradeck.tui.lines.columns import node_cells
from loradeck.tui.lines.nodes import node_lines
from loradeck.tui.lines.preview import goes_to
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Span


def lines(state: ConsoleState, **fields: Any) -> list[str]:
    row = state.row
    assert row is not None
    preview = row.preview.model_copy(update={"estimate_ms": None, "skipped": (), "streams": 0, **fields})
    changed = row.model_copy(update={"preview": preview, "soak": (600.0, 200)})
    return ["".join(part.text for part in line) for line in goes_to(changed, wide=True)]


def late(readiness: Readiness, seconds: float | None = None, node: str = "gpu-02", **more: Any) -> ReplicaReadiness:
    return ReplicaReadiness(node=node, replica=node, readiness=readiness, seconds=seconds, **more)


@pytest.mark.parametrize(
    ("readiness", "seconds", "said", "named"),
    [
        (Readiness.WARM, 0.42, "warm 1/2   loads in 0.4 s", "gpu-02 (warm 0.4 s)"),
        (Readiness.WARM, None, "warm 1/2   its load was never timed", "gpu-02 (warm)"),
        (Readiness.CACHED, 41.2, "cached 1/2   cold, 41 s", "gpu-02 (cached 41 s)"),
        (Readiness.CACHED, None, "cached 1/2   cold, never timed", "gpu-02 (cached)"),
        (Readiness.ABSENT, 0.061, "absent 1/2   cold, 61 ms", "gpu-02 (absent 61 ms)"),
        (Readiness.ABSENT, 200, "absent 1/2   cold, 3 min", "gpu-02 (absent 3 min)"),
    ],
)
def test_it_says_what_was_measured_and_nothing_where_nothing_was(
    state: ConsoleState, readiness: Readiness, seconds: float | None, said: str, named: str
) -> None:
    behind = (late(readiness, seconds),)
    first, second = lines(state, readiness=readiness, ready=1, placed=2, behind=behind, wait_s=seconds, gap=Gap.REFUSE)
    assert first.endswith(said)
    assert second.strip() == f"not on {named}; gap policy refuse"


def test_a_load_and_the_first_token_after_it_are_said_as_one_sum_and_the_load_beside_its_replica(
    state: ConsoleState,
) -> None:
    behind = (late(Readiness.WARM, 0.42),)
    first, second = lines(state, readiness=Readiness.WARM, ready=1, placed=2, behind=behind, wait_s=0.42, answer_s=0.92)
    assert first.endswith("warm 1/2   first answer in 0.9 s")
    assert "gpu-02 (warm 0.4 s)" in second


def test_a_node_without_an_engine_of_the_targets_base_is_named_with_that_base(state: ConsoleState) -> None:
    behind = (late(Readiness.ABSENT, engine=False),)
    first, second = lines(state, readiness=Readiness.ABSENT, ready=1, placed=2, behind=behind)
    assert first.endswith("absent 1/2   no engine of its base there")
    assert "gpu-02 (no engine of B2)" in second


def test_with_an_engine_missing_on_one_node_the_others_time_is_not_called_cold(state: ConsoleState) -> None:
    behind = (late(Readiness.ABSENT, engine=False), late(Readiness.WARM, 0.3, "gpu-03"))
    first, second = lines(state, readiness=Readiness.ABSENT, ready=0, placed=2, behind=behind, wait_s=0.3)
    assert first.endswith("loads in 0.3 s")
    assert "gpu-02 (no engine of B2), gpu-03 (warm 0.3 s)" in second


def test_an_unheard_replica_is_named_beside_a_resident_target(state: ConsoleState) -> None:
    behind = (late(Readiness.UNKNOWN),)
    first, second = lines(
        state, readiness=Readiness.RESIDENT, ready=1, placed=2, behind=behind, estimate_ms=6.0, gap=Gap.LEFT
    )
    assert first.endswith("resident 1/2   est 6 ms")
    assert second.strip() == "not on gpu-02 (unheard); gap policy left"


def test_of_many_replicas_two_are_named_and_the_rest_counted(state: ConsoleState) -> None:
    behind = tuple(late(Readiness.CACHED, 40.0, f"gpu-{n:02}") for n in range(5))
    _, second = lines(state, readiness=Readiness.CACHED, ready=0, placed=5, behind=behind, wait_s=40.0)
    assert "not on gpu-00 (cached 40 s), gpu-01 (cached 40 s) and 3 more" in second


def test_an_engine_that_nothing_wants_is_stopped_and_no_cause_for_alarm(state: ConsoleState) -> None:
    node = next(iter(state.nodes.values()))
    first, *rest = node.replicas
    stopped = node.model_copy(update={"replicas": (first.model_copy(update={"state": EngineState.STOPPED}), *rest)})
    down = node.model_copy(update={"replicas": (first.model_copy(update={"state": EngineState.DOWN}), *rest)})
    assert node_cells(state, stopped)["ENGINES"] == Span(f"{len(rest)}/{len(node.replicas)} up")
    assert node_cells(state, down)["ENGINES"].style == "warn"
    shown = [part for line in node_lines(state, stopped, 100, 20) for part in line]
    assert Span("stopped", "dim") in shown
