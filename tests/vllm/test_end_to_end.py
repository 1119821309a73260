"""A tenant on a vLLM that the agent launched: fifty moves under load, and the engine's death.

The base is SmolLM2; both adapters are trained for the test. Who answered is decided by the answers' tokens, which
are compared with what transformers computed for each adapter.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import vllm_server
from tests.fleets.processes.fleet import fleet_at, told
from tests.vllm.attached import VllmFleet
from tests.vllm.tickets import TENANT, TOKENS, Trained, lay, train

from incident.fleet import Fleet, wait_for
from incident.incident import Cast, Incident
from incident.progress import Progress
from incident.report import Report
from incident.traffic import Callers
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.schemas.trace import TraceRow
from loradeck_agent.host.state_folder import StateFolder

pytestmark = [pytest.mark.model, pytest.mark.timeout(1500)]

MOVES = {"moves 1 to 16": 16, "moves 17 to 32": 16, "moves 33 to 50": 18}
"""Parts of the fifty moves, each drawn for itself: two moves take some 16 s."""

PASSED = ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS")
"""Variables of the other tests' servers that the agent does not set by itself."""

AFTER = 4
SPACING_S = 0.02
"""Requests around a move, fewer than the demo's: vLLM reads some 150 tokens a second on one core."""

STREAMS = 2
"""Callers that read stream after stream beside the others."""


@dataclass(frozen=True)
class Served:
    fleet: Fleet
    cast: Cast
    key: str

    @property
    def lock(self) -> Path:
        """Of the launched engine: it names the process that holds it."""
        return StateFolder(self.fleet.nodes[0].state).engine_lock("e0")

    def loaded(self) -> set[str]:
        """Releases that the node says its engine may be asked for."""
        (node,) = self.fleet.cli("node", "ls")
        (replica,) = node["replicas"]
        return {release["id"] for release in replica["loaded"]}

    def row(self) -> dict[str, Any]:
        return dict(self.fleet.cli("route", "show", TENANT))

    def trace(self) -> dict[str, TraceRow]:
        """Answer's id -> its admission."""
        rows = [TraceRow.model_validate(row) for row in self.fleet.agent_cli(self.fleet.nodes[0], "trace")]
        return {row.request: row for row in rows if row.status}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("tickets"))


@pytest.fixture(scope="module")
def served(trained: Trained) -> Iterator[Served]:
    engine = {
        "name": "e0",
        "kind": "vllm",
        "base": str(trained.base),
        "python": vllm_server.PYTHON,
        "slots": 3,
        "max_rank": 8,
        "device": "cpu",
        "dtype": "float32",
        "args": ["--enforce-eager", "--max-model-len", "512"],
        "env": {name: vllm_server.ENV[name] for name in PASSED},
    }
    with fleet_at(trained.base, VllmFleet, names=("gpu-01",), engine=engine) as fleet:
        yield Served(fleet, *lay(fleet, trained))


@asynccontextmanager
async def under_load(served: Served) -> AsyncIterator[Callers]:
    """Callers of the tenant's: one after the other, every third answer streamed, and `STREAMS` that only stream."""
    routers = {node.name: node.url for node in served.fleet.nodes}
    prompts = served.cast.prompts

    async def stream(offset: int) -> None:
        for turn in itertools.count(offset):
            answer = await callers.ask("gpu-01", TENANT, prompts[turn % len(prompts)], stream=True)
            await asyncio.sleep(0 if answer.ok else 0.5)

    async with Callers(routers, {TENANT: served.key}, max_tokens=TOKENS) as callers:
        callers.start({TENANT: prompts}, every_s=0.05)
        streams = [asyncio.create_task(stream(5 * number)) for number in range(STREAMS)]
        try:
            yield callers
        finally:
            for task in streams:
                task.cancel()
            await asyncio.gather(*streams, return_exceptions=True)


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(100 * share) - 1]


@pytest.mark.parametrize(
    "moves",
    [pytest.param(n, id=part, marks=pytest.mark.drawn(seconds=8 * n, group=part)) for part, n in MOVES.items()],
)
async def test_fifty_moves_under_load_leave_no_late_answer_no_failed_request_and_no_dropped_stream(
    served: Served, moves: int
) -> None:
    report = Report(labels={release: label for label, release in served.cast.releases.items()}, replicas=1, needed=2)
    async with (
        HubApi.to(Context(name="tests", socket=served.fleet.socket)) as api,
        under_load(served) as callers,
    ):
        incident = Incident(
            served.fleet,
            api,
            callers,
            served.cast,
            report,
            Progress(),
            proven_within_s=120,
            after=AFTER,
            spacing_s=SPACING_S,
        )
        for _ in range(moves // 2):
            await incident.rollback()
            await incident.undo()
        answers = list(callers.answers)
    report.judge_moves(moves)
    flipped = [move.commit_ms + move.flipped_ms for move in report.moves if move.flipped_ms is not None]
    proven = [m.proven_ms - m.flipped_ms for m in report.moves if m.proven_ms is not None and m.flipped_ms is not None]
    trace = served.trace()
    admitted = [(answer, trace[answer.id]) for answer in answers]
    streams = sum(row.streamed for _, row in admitted)
    print(
        f"\nvLLM, {moves} moves under load, {len(answers)} answers ({streams} streams), ms: "
        f"R to flipped p50 {percentile(flipped, 0.5):.1f} p95 {percentile(flipped, 0.95):.1f}; "
        f"flipped to proven p50 {percentile(proven, 0.5):.0f} p95 {percentile(proven, 0.95):.0f}"
    )
    assert report.held, report.text() + told(served.fleet)
    assert [answer for answer in answers if not answer.ok] == []
    assert len(answers) > 10 * moves
    assert streams > moves
    # Streams were under way while pointers moved; each ended under the release that it was admitted to.
    assert [(answer.text, row.release) for answer, row in admitted if answer.by != row.release] == []
    assert {row.release for _, row in admitted} == set(served.cast.releases.values())
    assert served.fleet.cli("audit", "verify")["ok"]


@pytest.mark.drawn(seconds=70, group="hazard 7")
async def test_7_after_a_kill_9_adapters_are_replayed_and_proven_before_anybody_is_answered(served: Served) -> None:
    current, both = served.row()["pointer"]["release"], set(served.cast.releases.values())
    assert served.loaded() == both
    launched = int(served.lock.read_text())
    async with under_load(served) as callers:
        await asyncio.to_thread(wait_for, "answers", lambda: len(callers.answers) > 3, 120)
        os.killpg(launched, signal.SIGKILL)

        def refused() -> bool:
            return callers.answers[-1].status == 503

        def back() -> bool:
            row = served.row()
            return int(served.lock.read_text()) != launched and served.loaded() == both and row["proven"] == 1

        def answered() -> bool:
            return sum(answer.ok and answer.sent_ns > proven_ns for answer in list(callers.answers)) > 10

        await asyncio.to_thread(wait_for, "refused", refused, 60)
        await asyncio.to_thread(wait_for, "loaded and proven again", back, vllm_server.START_S, every=0.5)
        proven_ns = time.monotonic_ns()
        await asyncio.to_thread(wait_for, "answers", answered, vllm_server.START_S)
        answers = list(callers.answers)
    # In between callers were refused, or answered by the tenant's release: by no other, and not by the bare base.
    assert {answer.by for answer in answers if answer.ok} == {current}
    assert {answer.status for answer in answers if not answer.ok} - {0, 200, 502, 503} == set()
    served.fleet.cli("rollback", TENANT, "--yes", "--wait", "proven", "--timeout", "120")
    served.fleet.cli("undo", TENANT, "--yes", "--wait", "proven", "--timeout", "120")
