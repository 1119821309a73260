"""The prove executor on this machine: the train executor, run four times as a job would run it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.integration.executors.running import Bench

from loradeck.rules.serving.training_proof import faults, standing
from loradeck.schemas.executor import EXIT_OK, ExecutorEventType
from loradeck.schemas.jobs import ProveSpec
from loradeck.schemas.training import TrainingProof
from loradeck_agent.host.training_versions import training_versions

pytestmark = pytest.mark.drawn(seconds=25)


def test_a_node_proves_its_training_by_twenty_steps_and_says_on_what(tiny_base: Path, tmp_path: Path) -> None:
    bench = Bench(tiny_base, tmp_path)
    ended = bench.run(ProveSpec(node="n1", base=bench.digest), {})
    folder = ended.folder
    assert ended.status == EXIT_OK, ended.error
    proof = TrainingProof.model_validate_json((folder / "out" / "proof.json").read_bytes())
    assert (proof.straight, proof.resumed, proof.steps, faults(proof)) == (True, True, 20, ())
    assert proof.apart is not None
    assert 0 < proof.apart < 0.05
    assert proof.device == "cpu"
    assert proof.versions == training_versions()
    assert torch.__version__.startswith(proof.versions["torch"])
    assert (
        standing(proof, training_versions(), (), proof.at_ms) == "proven today on its CPU, which says nothing of a GPU"
    )
    resumed = (folder / "trials" / "resumed" / "events.jsonl").read_text()
    assert "resumed after step" in resumed
    assert ExecutorEventType.FINISHED.value in resumed
