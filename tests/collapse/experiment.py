"""Five generations of adapters on SmolLM2-135M, each trained on what the one before it wrote, in three ways.

    replace       the rows of the generation before, and nothing else
    accumulate    the rows of people, and those of all generations before
    verify        the same, of these only the rows that a program finds right

Each generation is a fresh adapter on the base, trained for the same number of steps. Then it is scored on rows of
people that nothing was trained on, and answers questions that nobody has answered, which is what the next one learns.
What is done already is not done again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.collapse.people import MODULES, rows
from tests.fakes.engine_relay import EngineRelay
from tests.integration.executors.running import run_here

from base_model import ensure_base
from loradeck.artifacts import base_manifest
from loradeck.rules.data.synthetic import Asked
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.executor import EngineDoor, ExecutorEvent, ExecutorSpec
from loradeck.schemas.generation import GenerateSpec, Template, Verifier
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import JobSpec, TrainSpec
from loradeck.schemas.manifest import DecisionRecord
from loradeck.schemas.training import AnswerForm

ARMS = ("replace", "accumulate", "verify")
GENERATIONS = 5
ROWS = 48
"""Rows of people that are trained on, as many that are held out, and as many questions."""

STEPS, BATCH, RATE = 24, 4, 1e-3
TEMPERATURE, LONGEST = 0.8, 48
SCORED_AT_ONCE = 8
SEED = 17
WANTED = 0.6
"""Reward of an answer with the right module, whatever it says beside it."""

Cell = tuple[str, int]
CELLS: tuple[Cell, ...] = (("people", 0), *((arm, number) for number in range(1, GENERATIONS + 1) for arm in ARMS))

Row = dict[str, Any]
NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Material:
    """The rows of people, apart: to train on, to score on, and questions alone."""

    taught: list[Row]
    held_out: list[Row]
    questions: list[Row]

    @property
    def digest(self) -> str:
        return digest_of({"rows": [self.taught, self.held_out, self.questions]})


def material() -> Material:
    found = rows()[: 3 * ROWS]
    return Material(found[:ROWS], found[ROWS : 2 * ROWS], found[2 * ROWS :])


SENTENCE = {"type": "string", "pattern": "^[A-Z].{18,88}[.]$"}
FORM: Row = {
    "type": "object",
    "properties": {"module": {"enum": sorted({*MODULES, *sys.stdlib_module_names})}, "does": SENTENCE},
    "required": ["module", "does"],
    "additionalProperties": False,
}
"""What the rows of `verify` have to be: a module that Python has, and one sentence."""


def question_spec(base: str, beside: str, questions: Sequence[Row], seed: int) -> GenerateSpec:
    """The recipe of what a generation answers: whatever is not empty passes it."""
    return GenerateSpec.model_validate(
        {
            "tenant": "acme",
            "name": "generation",
            "sources": [{"release": "e" * 64, "base": base, "licence": "Apache-2.0", "terms": "the experiment"}],
            "templates": [{"prompt": row["prompt"]} for row in questions],
            "prompts": len(questions),
            "temperatures": [TEMPERATURE],
            "max_new_tokens": LONGEST,
            "seed": seed,
            "batch": 16,
            "verifier": {"form": "text"},
            "beside": [beside],
        }
    )


def passing(spec: GenerateSpec, written: Sequence[Row], wanted: Mapping[str, str] = NOTHING) -> list[Row]:
    """The rows that a generate job's verifier passes as FORM, and where `wanted` has it, with the right module."""
    from loradeck_agent.executors.generate import passes

    checked = Verifier(form=AnswerForm.JSON, answer_schema=json.dumps(FORM), least=WANTED)
    verified = spec.model_copy(update={"verifier": checked})
    found = []
    for row in written:
        right = json.dumps({"module": wanted[row["prompt"]]}) if wanted else ""
        if passes(verified, Asked(Template(prompt=row["prompt"], wanted=right), {}), row["answer"]):
            found.append(row)
    return found


@dataclass
class Laboratory:
    """Runs cells in a folder, by the executors of train and generate jobs, with one engine."""

    root: Path
    say: Callable[[str], None] = lambda line: print(line, flush=True)

    def __post_init__(self) -> None:
        self.base = ensure_base(progress=self.say)
        self.digest = base_manifest(self.base, "-", "-").digest
        self.material = material()
        self.root.mkdir(parents=True, exist_ok=True)
        self.taught = _write(self.root / "people.jsonl", self.material.taught)
        self._scorer: Any = None

    def spec(self, cell: Cell) -> GenerateSpec:
        seed = SEED + CELLS.index(cell)
        return question_spec(self.digest, _digest(self.taught), self.material.questions, seed)

    def has(self, cell: Cell) -> bool:
        """Whether a cell is done already."""
        return (self.root / f"{cell[0]}-{cell[1]}" / "result.json").exists()

    def run(self, cell: Cell, address: Path) -> dict[str, Any]:
        """One generation of one arm: its figures, kept in `result.json`."""
        folder = self.root / f"{cell[0]}-{cell[1]}"
        kept = folder / "result.json"
        if self.has(cell):
            return dict(json.loads(kept.read_text()))
        folder.mkdir(exist_ok=True)
        files = self._rows_for(cell)
        adapter = self._trained(cell, folder, files)
        nats = self._scored(adapter)
        report, written = self._answers(cell, folder, adapter, address)
        passed = passing(self.spec(cell), written)
        right = passing(self.spec(cell), written, {row["prompt"]: row["module"] for row in self.material.questions})
        _write(folder / "written.jsonl", written)
        _write(folder / "passed.jsonl", passed)
        result = {
            "arm": cell[0],
            "generation": cell[1],
            "rows": sum(len(_read(file)) for file in files),
            "nats": [[round(sum_, 4), tokens] for sum_, tokens in nats],
            "written": len(written),
            "passed": len(passed),
            "right": len(right),
            "variety": report["variety"],
            "people": report["people"],
            "tail": report["tail"],
        }
        kept.write_text(json.dumps(result))
        return result

    def _rows_for(self, cell: Cell) -> list[Path]:
        arm, number = cell
        if number == 0:
            return [self.taught]
        name = "passed.jsonl" if arm == "verify" else "written.jsonl"
        cells = [CELLS[0], *((arm, earlier) for earlier in range(1, number))]
        files = [self.root / f"{of[0]}-{of[1]}" / name for of in cells]
        return files[-1:] if arm == "replace" else [self.taught, *(file for file in files if _read(file))]

    def _trained(self, cell: Cell, folder: Path, files: Sequence[Path]) -> Path:
        spec = TrainSpec(
            tenant="acme",
            name="generation",
            base=self.digest,
            datasets=tuple(map(_digest, files)),
            decision=DecisionRecord(why_weights="an experiment"),
            steps=STEPS,
            batch=BATCH,
            learning_rate=RATE,
            seed=SEED + cell[1],
            max_tokens=160,
        )
        self._execute(spec, folder / "train", {_digest(file): str(file) for file in files})
        return folder / "train" / "out"

    def _scored(self, adapter: Path) -> list[tuple[float, int]]:
        """Nats of each held-out answer, and its tokens."""
        import torch

        from loradeck_agent.executors.base import read_base
        from loradeck_agent.executors.evaluate import with_adapter

        torch.set_num_threads(1)
        base = self._scorer = self._scorer or read_base(self.base)
        wrapped = with_adapter(base.model, adapter).eval()
        found: list[tuple[float, int]] = []
        for start in range(0, ROWS, SCORED_AT_ONCE):
            part = self.material.held_out[start : start + SCORED_AT_ONCE]
            prompts = [base.prompt_ids([{"role": "user", "content": row["prompt"]}]) for row in part]
            answers = [base.answer_ids(row["answer"]) for row in part]
            whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
            ids = torch.full((len(part), max(map(len, whole))), base.pad)
            for at, one in enumerate(whole):  # what is behind an answer changes nothing before it
                ids[at, : len(one)] = torch.tensor(one)
            with torch.inference_mode():
                logits = wrapped(input_ids=ids, use_cache=False).logits
            for at, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
                places = slice(len(prompt) - 1, len(whole[at]) - 1)
                logs = torch.log_softmax(logits[at, places].float(), -1)
                said = logs.gather(1, torch.tensor(answer)[:, None]).sum()
                found.append((-float(said), len(answer)))
        base.model = wrapped.unload()
        return found

    def _answers(self, cell: Cell, folder: Path, adapter: Path, address: Path) -> tuple[dict[str, Any], list[Row]]:
        spec, door = self.spec(cell), folder / "ask.sock"
        door.unlink(missing_ok=True)
        with asked(address, f"acme-{cell[0]}-{cell[1]}", adapter, door):
            doors = {
                spec.sources[0].release: EngineDoor(
                    replica="here",
                    socket=str(door),
                    build=EngineBuild(engine="embedded", device="cpu", dtype="float32"),
                    scores=False,
                )
            }
            inputs = {self.digest: str(self.base), _digest(self.taught): str(self.taught)}
            out = self._execute(spec, folder / "generate", inputs, doors=doors)
        rows = [{"prompt": row["prompt"], "answer": row["answer"]} for row in _read(out / "rows.jsonl")]
        return dict(json.loads((out / "report.json").read_text())), rows

    def _execute(self, spec: JobSpec, folder: Path, inputs: dict[str, str], **more: Any) -> Path:
        folder.mkdir(exist_ok=True)
        full = ExecutorSpec(
            run=folder.parent.name,
            attempt=1,
            spec=spec,
            base=str(self.base),
            base_digest=self.digest,
            inputs=inputs,
            out=str(folder / "out"),
            events=str(folder / "events.jsonl"),
            error=str(folder / "error.txt"),
            **more,
        )
        asked, kept = full.model_dump_json(), folder / "spec.json"
        if (folder / "out").exists() and kept.read_text() == asked:  # published at the end of a run
            return folder / "out"
        kept.write_text(asked)
        (folder / "events.jsonl").unlink(missing_ok=True)
        (folder / "error.txt").unlink(missing_ok=True)
        status = run_here(spec.kind, folder)
        last = ExecutorEvent.model_validate_json((folder / "events.jsonl").read_text().splitlines()[-1])
        if status != 0:
            raise SystemExit(f"{folder} left with {status}: {last.message}")
        return folder / "out"


@contextmanager
def engine(base: Path, state: Path) -> Iterator[Path]:
    """The engine that comes with Loradeck, on a socket of its own."""
    state.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-m", "loradeck_agent.embedded.serve", "--state", str(state), "--base", str(base)]
    with (
        (state / "log.txt").open("wb") as log,
        subprocess.Popen([*command, "--slots", "1", "--threads", "1"], stdout=log, stderr=log) as process,
    ):
        try:
            yield state / "engine.sock"
        finally:
            process.terminate()


@contextmanager
def asked(address: Path, name: str, adapter: Path, door: Path) -> Iterator[None]:
    """Loads an adapter into the engine and answers an executor's questions by it, as an agent does."""
    from loradeck_agent.serving.engine_api import EngineAddress, EngineApi

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def loaded() -> EngineApi:
        api = EngineApi(EngineAddress(socket=str(address)))
        while True:
            try:
                if await api.healthy():
                    break
            except Exception:
                await asyncio.sleep(1)
        await api.load(name, adapter)
        return api

    api: EngineApi = wait(loaded())

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        heat, seed = question.get("temperature", 0.0), question.get("seed")
        text, tokens = wait(api.complete(name, question["prompt"], question["max_tokens"], temperature=heat, seed=seed))
        return {"text": text, "tokens": tokens}

    relay = EngineRelay(door, answer)
    try:
        yield
    finally:
        relay.listener.close()
        wait(api.unload(name))
        loop.call_soon_threadsafe(loop.stop)


def _write(path: Path, rows: Sequence[Row]) -> Path:
    kept = [{"prompt": row["prompt"], "answer": row["answer"]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return path


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
