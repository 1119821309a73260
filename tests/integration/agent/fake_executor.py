"""A small executor: no model, but the real protocol. What it does is chosen by the job's adapter name.

merge: weights with their manifest and a report, on other weights where the release's route is called `lies`.
good: three steps and an adapter. slow: steps until SIGTERM, then 75. stubborn: ignores SIGTERM. waits: steps until
a file `go` lies in its folder, then an adapter. lies: an adapter whose manifest names other bytes. diverges: 70,
with a FAILED event. saves: leaves a checkpoint and steps until SIGTERM; where it finds one, an adapter. crashes: a
traceback and 1, without an event. silent: 0, without a terminal event.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.integration.agent.artifacts import make_adapter
from tests.integration.agent.fake_engine import BUILD

from loradeck.artifacts import base_manifest
from loradeck.rules.data.synthetic import share
from loradeck.schemas.attestation import (
    CanaryItem,
    CanaryRecord,
    EvaluationReport,
    ItemResult,
    LeakReport,
    MergeProbe,
    MergeReport,
)
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType, ExecutorSpec
from loradeck.schemas.generation import GenerateSpec, GenerationReport, SourceCount, Variety
from loradeck.schemas.jobs import EvaluateSpec, JudgeSpec, LeakSpec, MergeSpec, ProveSpec, TrainSpec
from loradeck.schemas.training import TrainingProof
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.serving.engine_questions import EngineQuestion


class Fake:
    def __init__(self, spec: ExecutorSpec) -> None:
        self.spec = spec
        self.seq = 0
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def emit(self, type_: ExecutorEventType, **fields: object) -> None:
        event = ExecutorEvent(
            run=self.spec.run, attempt=self.spec.attempt, seq=self.seq, ts=time.time(), type=type_, **fields
        )
        with Path(self.spec.events).open("a") as file:
            file.write(event.model_dump_json() + "\n")
        self.seq += 1

    def steps_until_stopped(self, done: Path | None = None) -> None:
        step = 0
        while not self.stopping and not (done is not None and done.exists()):
            step += 1
            self.emit(ExecutorEventType.PROGRESS, step=step, of=1000, metrics={"loss": 1.0 / step})
            time.sleep(0.05)

    def adapter(self, spec: TrainSpec, *, lie: bool = False) -> None:
        made = make_adapter(spec.base, 42)
        manifest = made.manifest.model_copy(
            update={"name": spec.name, "datasets": spec.datasets, "tenant": spec.tenant}
        )
        out = Path(self.spec.out)
        out.mkdir()
        for name, data in made.files.items():
            (out / name).write_bytes(data[:-4] + b"\0\0\0\1" if lie and name.endswith("safetensors") else data)
        (out / "manifest.json").write_text(manifest.model_dump_json())

    def train(self, spec: TrainSpec) -> int:
        for digest in spec.datasets:
            assert (Path(self.spec.inputs[digest]) / "rows.jsonl").is_file()
        self.emit(ExecutorEventType.STARTED)
        match spec.name:
            case "slow":
                self.steps_until_stopped()
                self.emit(ExecutorEventType.PREEMPTED, message="stopped on request", code="preempted")
                return 75
            case "stubborn":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                self.steps_until_stopped()
            case "waits":
                self.steps_until_stopped(Path(self.spec.out).parent / "go")
            case "saves":
                folder = Path(self.spec.checkpoints or "")
                if not (folder / "LAST_GOOD").exists():
                    (folder / "step-00000004").mkdir(parents=True)
                    (folder / "step-00000004" / "weights.safetensors").write_bytes(b"weights after step 4")
                    (folder / "LAST_GOOD").write_text("step-00000004")
                    self.emit(ExecutorEventType.CHECKPOINT, step=4, of=9, data={"folder": "step-00000004"})
                    self.steps_until_stopped()
                    self.emit(ExecutorEventType.PREEMPTED, message="stopped on request", code="preempted")
                    return 75
                found = (folder / (folder / "LAST_GOOD").read_text() / "weights.safetensors").read_bytes()
                self.emit(ExecutorEventType.HEARTBEAT, message=f"resumed from {found.decode()}")
            case "diverges":
                self.emit(ExecutorEventType.FAILED, message="the loss is not finite at step 2", code="diverged")
                return 70
            case "crashes":
                sys.stdout.write("loading the base\n[red]step 1[/]\n")
                sys.stdout.flush()
                sys.stderr.write("no such luck")
                Path(self.spec.error).write_text("Traceback (most recent call last):\nRuntimeError: no such luck\n")
                return 1
            case "silent":
                return 0
            case "reads":
                assert self.spec.engine is not None
                asked = EngineQuestion(messages=({"role": "user", "content": "four"},), tools=({"name": "t"},))
                ((_, found),) = Served(self.spec.engine, 1).each([asked], lambda: None)
                self.emit(ExecutorEventType.HEARTBEAT, message=f"the engine reads {found.ids}")
            case "distils":
                assert self.spec.teacher is not None
                asked = EngineQuestion(prompt=(7, 8, 9), last=2, top=2)
                ((_, found),) = Served(self.spec.teacher, 1).each([asked], lambda: None)
                self.emit(ExecutorEventType.HEARTBEAT, message=f"the teacher says {found.top}")
        for step in range(1, 4):
            self.emit(ExecutorEventType.PROGRESS, step=step, of=3, metrics={"loss": 1.0 / step})
        self.adapter(spec, lie=spec.name == "lies")
        self.emit(ExecutorEventType.FINISHED)
        return 0

    def evaluate(self, spec: EvaluateSpec) -> int:
        folders = [Path(path) for path in self.spec.inputs.values()]
        assert all(path.is_dir() for path in folders)
        out = Path(self.spec.out)
        out.mkdir()
        door, answer = self.spec.engine, "x"
        if door is not None:
            question = EngineQuestion(prompt=(7, 8), max_tokens=4)
            ((_, found),) = Served(door, 1).each([question], lambda: None)
            answer = found.text
        item = ItemResult(id="a", answer=answer, exact=True, valid=True, acc_norm=door is not None or None)
        report = EvaluationReport(
            release=spec.release,
            suite=spec.suite,
            n=1,
            exact=1,
            valid=1,
            items=(item,),
            seconds=0.1,
            engine=door.build if door is not None else None,
        )
        record = CanaryRecord(
            release=spec.release, build=BUILD, items=(CanaryItem(prompt="a" * 64, tokens=(1,), margins=(2.0,)),)
        )
        (out / "report.json").write_text(report.model_dump_json())
        if door is None:
            (out / "canary.json").write_text(record.model_dump_json())
        self.emit(ExecutorEventType.FINISHED)
        return 0

    def prove(self, spec: ProveSpec) -> int:
        assert self.spec.base_digest == spec.base
        measured = {"planned_bytes": 1, "peak_bytes": 2, "tokens_per_second": 9.0, "seconds": 1.0, "loss": 1.0}
        same = {"straight": True, "resumed": True, "versions": {}, "device": "cpu", "base": spec.base}
        proof = TrainingProof.model_validate(measured | same | {"steps": spec.steps})
        Path(self.spec.out).mkdir()
        (Path(self.spec.out) / "proof.json").write_text(proof.model_dump_json())
        self.emit(ExecutorEventType.FINISHED)
        return 0

    def leak(self, spec: LeakSpec) -> int:
        assert all((Path(self.spec.inputs[digest]) / "rows.jsonl").is_file() for digest in spec.datasets)
        assert self.spec.engine is not None
        questions = [EngineQuestion(prompt=(7, 8), max_tokens=4, base=base) for base in (False, True)]
        found = dict(Served(self.spec.engine, 1).each(questions, lambda: None))
        report = LeakReport(
            release=spec.release,
            datasets=spec.datasets,
            n=1,
            both=0,
            only_release=0,
            only_base=0,
            measure=f"{found[0].text} / {found[1].text}",
            seconds=0.1,
        )
        out = Path(self.spec.out)
        out.mkdir()
        (out / "report.json").write_text(report.model_dump_json())
        self.emit(ExecutorEventType.FINISHED)
        return 0

    def generate(self, spec: GenerateSpec) -> int:
        """A row of each source, by what its engine says at a temperature."""
        assert all((Path(self.spec.inputs[digest]) / "rows.jsonl").is_file() for digest in spec.beside)
        said = []
        for source in spec.sources:
            assert Path(self.spec.inputs[source.base]).is_dir()
            question = EngineQuestion(prompt=(7, 8), max_tokens=4, temperature=0.7, seed=5)
            said += [answer.text for _, answer in Served(self.spec.doors[source.release], 1).each([question], int)]
        passed, various = (
            share(len(said), len(said)),
            Variety(texts=1, words=1, distinct_1=1, distinct_2=0, self_bleu=0),
        )
        report = GenerationReport(
            job=self.spec.run,
            asked=len(said),
            unfinished=0,
            sensitive=0,
            passed=passed,
            sources=tuple(SourceCount(release=source.release, passed=share(1, 1)) for source in spec.sources),
            copies=0,
            near=None,
            contaminated=0,
            rows=len(said),
            beside=spec.beside,
            variety=various,
            people=various,
            tail=passed,
            tail_of_people=passed,
        )
        out = Path(self.spec.out)
        out.mkdir()
        (out / "report.json").write_text(report.model_dump_json())
        (out / "rows.jsonl").write_text("".join(json.dumps({"answer": one}) + "\n" for one in said))
        self.emit(ExecutorEventType.FINISHED)
        return 0

    def merge(self, spec: MergeSpec) -> int:
        (adapter,) = (Path(path) for path in self.spec.inputs.values())
        weights = Path(self.spec.out) / "weights"
        weights.mkdir(parents=True)
        for path in Path(self.spec.base).iterdir():
            (weights / path.name).write_bytes(path.read_bytes())
        with (weights / "model.safetensors").open("ab") as file:  # nobody reads it here; it is only another digest
            file.write((adapter / "adapter_model.safetensors").read_bytes())
        manifest = base_manifest(weights, spec.tenant, "merged")
        if spec.route == "lies":
            (weights / "config.json").write_text("{}")
        probe = MergeProbe(prompts=4, positions=60, kl=0.001, kl_worst=0.01, kl_base=2.0, agree=60)
        report = MergeReport(
            release="a" * 64, adapter=spec.release, merged=manifest.digest, tensors=2, probe=probe, seconds=0.1
        )
        (weights.parent / "weights.manifest.json").write_text(manifest.model_dump_json())
        (weights.parent / "report.json").write_text(report.model_dump_json())
        self.emit(ExecutorEventType.FINISHED)
        return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=Path, required=True)
    spec = ExecutorSpec.model_validate(json.loads(parser.parse_args().spec.read_bytes()))
    assert os.getpriority(os.PRIO_PROCESS, 0) >= 0
    fake = Fake(spec)
    match spec.spec:
        case TrainSpec() as work:
            return fake.train(work)
        case MergeSpec() as work:
            return fake.merge(work)
        case EvaluateSpec() as work:
            return fake.evaluate(work)
        case LeakSpec() as work:
            return fake.leak(work)
        case GenerateSpec() as work:
            return fake.generate(work)
        case JudgeSpec():
            from loradeck_agent.executors import judge, protocol

            return protocol.run("judge", judge.judge)
        case ProveSpec() as work:
            return fake.prove(work)
    raise AssertionError(spec.spec.kind)


if __name__ == "__main__":
    sys.exit(main())
