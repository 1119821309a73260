"""Running executors in this process, on a spec in a folder of its own."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.engine_relay import Answering, EngineRelay

from loradeck.artifacts import base_manifest
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.executor import EngineDoor, ExecutorEvent, ExecutorEventType, ExecutorSpec
from loradeck.schemas.jobs import EvaluateSpec, JobSpec, TrainSpec
from loradeck.schemas.manifest import DecisionRecord, Form, Release
from loradeck_agent.executors import protocol

DATASET = "d" * 64
SUITE = "5" * 64
DECISION = DecisionRecord(why_weights="a test")

Row = dict[str, Any]


@dataclass
class Ended:
    """How a run ended and what it left."""

    status: int
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def events(self) -> list[ExecutorEvent]:
        return read_events(self.folder)

    @property
    def last(self) -> ExecutorEvent:
        return self.events[-1]

    @property
    def error(self) -> str:
        return (self.folder / "error.txt").read_text()

    def of_type(self, type_: ExecutorEventType) -> list[ExecutorEvent]:
        return [event for event in self.events if event.type == type_]


def read_events(folder: Path) -> list[ExecutorEvent]:
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [ExecutorEvent.model_validate_json(line) for line in lines]


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass
class Bench:
    """Makes specs for a base and runs them."""

    base: Path
    root: Path

    def __post_init__(self) -> None:
        self.digest = base_manifest(self.base, "-", "-").digest
        self._count = 0

    def write(self, spec: JobSpec, inputs: dict[str, str], **changes: Any) -> Path:
        """A folder with a spec in it; `changes` are to the ExecutorSpec."""
        self._count += 1
        folder = self.root / f"run{self._count}"
        folder.mkdir()
        fields: dict[str, Any] = {
            "run": "job-1",
            "attempt": 2,
            "spec": spec,
            "base": str(self.base),
            "base_digest": self.digest,
            "inputs": inputs,
            "out": str(folder / "out"),
            "events": str(folder / "events.jsonl"),
            "error": str(folder / "error.txt"),
            **changes,
        }
        (folder / "spec.json").write_text(ExecutorSpec.model_validate(fields).model_dump_json())
        return folder

    def run(self, spec: JobSpec, inputs: dict[str, str], **changes: Any) -> Ended:
        folder = self.write(spec, inputs, **changes)
        return Ended(run_here(spec.kind, folder), folder)

    @contextmanager
    def door(self, answer: Answering, build: EngineBuild, *, scores: bool) -> Iterator[EngineDoor]:
        """The door to an engine that answers so, in the bench's folder, whose whole path may be too long."""
        with chdir(self.root):
            relay = EngineRelay(Path("ask.sock"), answer)
            yield EngineDoor(replica="n1/e0", socket="ask.sock", build=build, scores=scores)
            relay.listener.close()
            Path("ask.sock").unlink()

    def recipe(self, **changes: Any) -> TrainSpec:
        fields: dict[str, Any] = {
            "tenant": "acme",
            "name": "tickets",
            "base": self.digest,
            "datasets": (DATASET,),
            "decision": DECISION,
            "steps": 4,
            "batch": 2,
            **changes,
        }
        return TrainSpec.model_validate(fields)

    def train(self, rows: Sequence[Row], **changes: Any) -> Ended:
        """Trains on rows; `changes` are to the TrainSpec."""
        path = write_rows(self.root / f"rows{self._count}.jsonl", rows)
        return self.run(self.recipe(**changes), {DATASET: str(path)})

    def release(self, adapter: str | None) -> str:
        form = Form.ADAPTER if adapter else Form.BASE
        return Release(tenant="acme", form=form, base=self.digest, adapter=adapter).id

    def evaluate(
        self, items: Sequence[Row], adapter: tuple[str, Path] | None = None, canaries: Any = (), **changes: Any
    ) -> Ended:
        """Scores an adapter (digest, folder), or the base alone; `changes` are to the EvaluateSpec."""
        path = write_rows(self.root / f"items{self._count}.jsonl", items)
        inputs = {SUITE: str(path)}
        if adapter:
            inputs[adapter[0]] = str(adapter[1])
        fields = {"tenant": "acme", "release": self.release(adapter[0] if adapter else None), "suite": SUITE, **changes}
        return self.run(EvaluateSpec.model_validate(fields), inputs, canaries=canaries)


def bare(root: Path) -> Bench:
    """A bench whose base is a folder with the files of one, for executors that read none of them."""
    base = root / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"\0" * 8)
    return Bench(base, root)


def run_here(kind: str, folder: Path) -> int:
    """What `python -m loradeck_agent.executors KIND` does, in this process."""
    work = getattr(importlib.import_module(f"loradeck_agent.executors.{kind}"), kind)
    return protocol.run(kind, work, ["--spec", str(folder / "spec.json")])
