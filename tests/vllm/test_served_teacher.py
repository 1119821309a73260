"""Distillation from a teacher that the real vLLM serves, beside the same teacher in the executor's own process.

It serves no adapters: on CPU one that does would end (hazard 11), and is not asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import vllm_server
from tests.fakes.word_model import write_base
from tests.fleets.processes.fleet import Material
from tests.integration.executors.running import DATASET, Bench, Ended, Row, write_rows
from tests.vllm.conftest import HEAD
from tests.vllm_server import Server

from loradeck.artifacts import base_manifest
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.executor import EXIT_OK, ExecutorEventType
from loradeck_agent.host.errors import AgentError
from loradeck_agent.serving.engine_api import EngineAddress, EngineApi

pytestmark = pytest.mark.drawn(seconds=60)

ROWS: list[Row] = [{"prompt": f"w{n} w{n + 1}", "answer": f"w{2 * n} w{3 * n}"} for n in range(6)]
BUILD = EngineBuild(engine="vllm", device="cpu", dtype="float32")
MOST = 20
"""Likeliest tokens that vLLM gives where its `--max-logprobs` is not set."""


@pytest.fixture(scope="module")
def server(material: Material) -> Iterator[Server]:
    with vllm_server.running(material.base, adapters=False) as server:
        yield server


@pytest.fixture
def student(tmp_path: Path) -> Bench:
    """Another base than the served one, with the same tokens."""
    return Bench(write_base(tmp_path / "student", seed=1, head_dim=HEAD), tmp_path)


def distilled(bench: Bench, teacher: Path, server: Server | None = None, **settings: Any) -> Ended:
    """Three steps; the teacher is asked at the server, or else read from its folder."""

    def likeliest(question: dict[str, Any]) -> dict[str, Any]:
        async def ask() -> Any:
            assert server is not None
            api = EngineApi(EngineAddress(socket=str(server.socket)))
            try:
                return await api.likeliest("base", question["prompt"], question["last"], question["top"])
            finally:
                api.close()

        try:
            return {"top": asyncio.run(ask()), "ms": 1.0}
        except AgentError as error:
            return {"error": str(error)}

    digest = base_manifest(teacher, "-", "-").digest
    settings = {"teacher": digest, "licence": "Apache-2.0", **settings}
    recipe = bench.recipe(method="distil", steps=3, batch=6, learning_rate=1e-2, distillation=settings)
    inputs = {DATASET: str(write_rows(bench.root / "asked.jsonl", ROWS)), digest: str(teacher)}
    if server is None:
        return bench.run(recipe, inputs)
    with bench.door(likeliest, BUILD, scores=True) as door:
        return bench.run(recipe, inputs, teacher=door)


def losses(ended: Ended) -> list[float]:
    assert ended.status == EXIT_OK, ended.last
    return [e.metrics["loss"] for e in ended.of_type(ExecutorEventType.PROGRESS) if "loss" in e.metrics]


def test_a_student_learns_of_the_served_teacher_what_it_learns_of_the_same_teacher_beside_it(
    student: Bench, server: Server, material: Material
) -> None:
    served = losses(distilled(student, material.base, server, way="top", top=MOST))
    beside = losses(distilled(student, material.base))
    assert len(served) == len(beside) == 3
    for ours, theirs in zip(served, beside, strict=True):
        assert 0 < ours <= theirs * 1.001, "of fewer buckets it is a lower bound"
    assert served[-1] < served[0]


def test_more_tokens_than_the_engine_gives_are_refused_with_its_own_words(
    student: Bench, server: Server, material: Material
) -> None:
    ended = distilled(student, material.base, server, way="top", top=MOST + 1)
    assert ended.status != EXIT_OK
    assert ended.last.code == "engine_failed"
    assert "max_logprobs" in ended.last.message or "20" in ended.last.message, ended.last
