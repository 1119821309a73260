"""Runs the example recipes with the train executor, scores base and result on held-out items, and writes the tables.

    cd examples && python -m recipes.measure [--only supervised,full] [--threads N] [--keep DIR] [--docs FILE]

Each recipe takes less than three minutes of one core. What stands in the folder of `--keep` already is not done again.
With `--docs` the tables go between the markers of that file (docs/training.md). Ends with 1 where a recipe gains less
on held-out items than LEARNS, or takes longer than SECONDS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base_model import ensure_base
from loradeck.artifacts import base_manifest
from loradeck.schemas.executor import ExecutorEvent, ExecutorSpec
from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.training import Method

HERE = Path(__file__).parent
RECIPES = ("supervised", "mixed", "full", "calls", "dpo", "ipo", "kto", "grpo", "distilled")
BEGIN, END = "<!-- measured: written by make recipes -->", "<!-- /measured -->"
ANSWER_TOKENS = 40

LEARNS, SECONDS = 0.15, 180
"""What is asked of a recipe: the least gain on held-out items, a share, and the most processor time."""


@dataclass(frozen=True)
class Score:
    """On held-out items. `quality`: share of exact answers, or of pairs whose better answer is the likelier one."""

    quality: float
    n: int
    general_nats: float


@dataclass(frozen=True)
class Result:
    name: str
    before: Score
    after: Score
    steps: int
    seconds: float
    """Processor time of the run, imports included."""
    peak_memory: int
    size: int
    """Bytes of the trained weights on the disk."""


def digest_of_rows(name: str) -> str:
    """What stands for a dataset's digest here, where no hub registered it."""
    return hashlib.sha256((HERE / f"{name}.jsonl").read_bytes()).hexdigest()


def recipe(name: str, base_digest: str, teacher: str = "0" * 64) -> TrainSpec:
    """A recipe with digests in the place of names, as `loradeck job train` resolves them."""
    fields = tomllib.loads((HERE / f"{name}.toml").read_text())
    fields["base"] = base_digest
    fields["datasets"] = [digest_of_rows(dataset) for dataset in fields["datasets"]]
    if "mixing" in fields:
        fields["mixing"]["dataset"] = digest_of_rows(fields["mixing"]["dataset"])
    if "distillation" in fields:
        fields["distillation"]["teacher"] = teacher
    return TrainSpec.model_validate(fields)


def run(name: str, base: Path, base_digest: str, root: Path, threads: int) -> Result:
    """Trains by a recipe and scores what came of it."""
    kept = root / name / "result.json"
    if kept.exists():
        return _result(json.loads(kept.read_text()))
    fields = tomllib.loads((HERE / f"{name}.toml").read_text())
    sets, inputs, teacher = fields["datasets"], {}, "0" * 64
    if "distillation" in fields:  # the teacher is what another recipe makes
        run(fields["distillation"]["teacher"], base, base_digest, root, threads)
        folder = root / fields["distillation"]["teacher"] / "out"
        teacher = base_manifest(folder, "-", "-").digest
        inputs[teacher] = str(folder)
    spec = recipe(name, base_digest, teacher)
    folder = root / name
    folder.mkdir(parents=True)
    full = ExecutorSpec(
        run=name,
        attempt=1,
        spec=spec,
        base=str(base),
        base_digest=base_digest,
        inputs=inputs | {digest_of_rows(dataset): str(HERE / f"{dataset}.jsonl") for dataset in sets},
        out=str(folder / "out"),
        events=str(folder / "events.jsonl"),
        error=str(folder / "error.txt"),
        checkpoints=str(folder / "checkpoints"),
        threads=threads,
    )
    (folder / "spec.json").write_text(full.model_dump_json())
    command = [sys.executable, "-m", "loradeck_agent.executors", "train", "--spec", str(folder / "spec.json")]
    began = _children_seconds()
    with (folder / "log.txt").open("wb") as log:
        status = subprocess.run(command, stdout=log, stderr=log).returncode
    seconds = _children_seconds() - began
    last = ExecutorEvent.model_validate_json((folder / "events.jsonl").read_text().splitlines()[-1])
    if status != 0:
        raise SystemExit(f"{name} left with {status}: {last.message}; see {folder}")
    result = Result(
        name=name,
        before=_base_score(full, sets[0], root),
        after=scored(full, sets[0], folder / "out"),
        steps=int(last.data["steps"]),
        seconds=seconds,
        peak_memory=int(last.data["peak_memory_bytes"]),
        size=sum(path.stat().st_size for path in (folder / "out").glob("*.safetensors")),
    )
    kept.write_text(json.dumps(vars(result), default=vars))
    return result


def _base_score(full: ExecutorSpec, name: str, root: Path) -> Score:
    """The base's score on a task; the same for every recipe of it."""
    kept = root / f"base-{name}.json"
    if not kept.exists():
        kept.write_text(json.dumps(vars(scored(full, name, None))))
    return Score(**json.loads(kept.read_text()))


def _result(kept: dict[str, Any]) -> Result:
    return Result(**{**kept, "before": Score(**kept["before"]), "after": Score(**kept["after"])})


def scored(full: ExecutorSpec, name: str, out: Path | None) -> Score:
    """The base, or what a run left, on the held-out items of a task and on general questions."""
    # Heavy, and not needed to read a recipe.
    from loradeck_agent.executors.base import Base, load_base
    from loradeck_agent.executors.evaluate import with_adapter
    from loradeck_agent.executors.training.templates import tokenised
    from loradeck_agent.executors.training.training_rows import read_lessons

    spec = full.spec
    assert isinstance(spec, TrainSpec)
    adapter = out is not None and (out / "adapter_config.json").exists()
    folder = out if out is not None and not adapter else Path(full.base)
    here = full.model_copy(update={"base": str(folder), "base_digest": base_manifest(folder, "-", "-").digest})
    loaded = load_base(here)
    model = with_adapter(loaded.model, out) if adapter and out is not None else loaded.model
    base = Base(model, loaded.tokenizer, loaded.eos, loaded.pad)
    model.eval()
    talk = read_lessons(HERE / "talk-held-out.jsonl", recipe("supervised", spec.base), general=True)
    examples = [tokenised(base, lesson, 512) for lesson in talk]
    nats = [_logp(base, example.ids[: example.answer_at], example.ids[example.answer_at :]) for example in examples]
    tokens = sum(example.answer_tokens for example in examples)
    held = [tokenised(base, lesson, 512) for lesson in read_lessons(HERE / f"{name}-held-out.jsonl", spec)]
    if spec.method is Method.KTO:
        logps = [(e.ids[: e.answer_at], e.good, _logp(base, e.ids[: e.answer_at], e.ids[e.answer_at :])) for e in held]
        right = [
            good > bad
            for prompt, is_good, good in logps
            for other, other_good, bad in logps
            if prompt == other and is_good and not other_good
        ]
    elif held[0].rejected:
        right = [
            _logp(base, e.ids[: e.answer_at], e.ids[e.answer_at :]) > _logp(base, e.ids[: e.answer_at], e.rejected)
            for e in held
        ]
    else:
        right = _exact(base, [(e.ids[: e.answer_at], e.ids[e.answer_at :]) for e in held])
    return Score(sum(right) / len(right), len(right), -sum(nats) / tokens)


def _logp(base: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Log-probability (nats) of an answer."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *answer]])
        logits = base.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        return float(torch.log_softmax(logits, -1).gather(1, torch.tensor(list(answer))[:, None]).sum())


def _exact(base: Any, items: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
    from loradeck_agent.executors.evaluation.in_process import greedy

    right = []
    for start in range(0, len(items), 8):
        part = items[start : start + 8]
        answers = greedy(base.model, [prompt for prompt, _ in part], ANSWER_TOKENS, eos=base.eos, pad=base.pad)
        right += [answer.tokens == wanted for answer, (_, wanted) in zip(answers, part, strict=True)]
    return right


def tables(results: Mapping[str, Result]) -> str:
    """What was measured, as Markdown; and an adapter beside every weight where both were."""
    lines = [
        "| recipe | held-out items | base | trained | general questions, nats per token: base → trained | steps "
        "| processor time | peak memory | trained weights |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        kind = "pairs ranked rightly" if name in ("dpo", "ipo", "kto") else "exact answers"
        lines.append(
            f"| [{name}](../examples/recipes/{name}.toml) | {r.after.n}, {kind} | {r.before.quality:.0%} "
            f"| **{r.after.quality:.0%}** | {r.before.general_nats:.2f} → {r.after.general_nats:.2f} | {r.steps} "
            f"| {r.seconds:.0f} s | {r.peak_memory / 1e9:.2f} GB | {r.size / 1e6:.1f} MB |"
        )
    return "\n".join([*lines, *_adapter_beside_full(results)]) + "\n"


def _adapter_beside_full(results: Mapping[str, Result]) -> list[str]:
    """The same tickets taught three ways, a column each."""
    ways = {"an adapter": "supervised", "an adapter, general rows mixed in": "mixed", "every weight": "full"}
    if not results.keys() >= set(ways.values()):
        return []
    columns = [results[name] for name in ways.values()]
    rows: dict[str, list[str]] = {
        "quality: exact answers to held-out tickets": [f"{r.after.quality:.0%} of {r.after.n}" for r in columns],
        "forgetting: nats per token that general questions cost more than the base": [
            f"{r.after.general_nats - r.before.general_nats:+.2f}" for r in columns
        ],
        "processor time, imports included": [f"{r.seconds:.0f} s, {r.steps} steps" for r in columns],
        "peak memory": [f"{r.peak_memory / 1e9:.2f} GB" for r in columns],
        "size of what each tenant needs": [f"{r.size / 1e6:.1f} MB" for r in columns],
    }
    return [
        "",
        "The same tickets taught by an adapter (PEFT) and by fine-tuning every weight:",
        "",
        f"| | {' | '.join(f'{way} ({name})' for way, name in ways.items())} |",
        f"|---|{'---|' * len(ways)}",
        *(f"| {what} | {' | '.join(values)} |" for what, values in rows.items()),
    ]


def missed(results: Mapping[str, Result]) -> list[str]:
    """Says which recipes gain too little on held-out items, or take too long."""
    return [
        f"{name}: {r.before.quality:.0%} before and {r.after.quality:.0%} after, {r.seconds:.0f} s"
        for name, r in results.items()
        if r.after.quality < r.before.quality + LEARNS or r.seconds >= SECONDS
    ]


def write_docs(path: Path, text: str) -> None:
    """Puts the tables between the markers."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(RECIPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder to keep everything in")
    parser.add_argument("--docs", type=Path, help="file whose markers the tables are put between")
    args = parser.parse_args()
    base = ensure_base(progress=lambda line: print(line, file=sys.stderr))
    digest = base_manifest(base, "-", "-").digest
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only.split(","):
            results[name] = run(name, base, digest, args.keep or Path(scratch), args.threads)
            print(json.dumps(vars(results[name]), default=vars), flush=True)
    print(tables(results))
    if args.docs:
        write_docs(args.docs, tables(results))
    if found := missed(results):
        raise SystemExit("\n".join(["a recipe gained too little, or took too long:", *found]))


if __name__ == "__main__":
    main()
