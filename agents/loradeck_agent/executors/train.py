"""Supervised LoRA: a peft adapter from prompt/answer rows, with the loss on the answers only.

The same spec on the same kind of machine gives the same bytes. The learning rate rises over the first tenth of
the steps and falls to zero over the rest; gradients are clipped at norm 1.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save
from torch.nn import functional

from loradeck.artifacts import scan
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.manifest import AdapterManifest
from loradeck_agent.engines.adapter_files import (
    CONFIG,
    WEIGHTS,
    AdapterFault,
    check_tensors,
    expected_shapes,
    linear_shapes,
)
from loradeck_agent.executors.base import Base, load_base
from loradeck_agent.executors.protocol import BadSpec, Diverged, Run, run
from loradeck_agent.executors.publish import publish
from loradeck_agent.executors.rows import Row, read_rows

WARM_UP = 0.1
CLIP = 1.0


@dataclass(frozen=True)
class Example:
    """Tokens of one row; the answer begins at `answer_at`."""

    ids: list[int]
    answer_at: int


def train(current: Run) -> Mapping[str, Any]:
    """The work of one train job. Results are in the spec's `out` when it returns."""
    spec = current.spec.spec
    assert isinstance(spec, TrainSpec)
    if spec.base != current.spec.base_digest:
        raise BadSpec("wrong_base", f"the recipe is for the base {spec.base}, this one is {current.spec.base_digest}")
    rows = [row for digest in spec.datasets for row in read_rows(_input(current, digest))]
    current.phase("loading the base")
    base = load_base(current.spec)
    examples = [tokenised(base, row, spec.max_tokens) for row in rows]
    shapes = linear_shapes(base.model)
    torch.manual_seed(spec.seed)
    model, config = _with_adapter(base, spec)
    if spec.parent is not None:
        _start_from(model, _input(current, spec.parent), config, shapes)
    current.check()
    loss = _optimise(current, base, model, examples, spec)
    tensors = {k: v.detach().contiguous() for k, v in get_peft_model_state_dict(model).items()}
    try:
        check_tensors(tensors, expected_shapes(config, shapes))
    except AdapterFault as fault:
        raise Diverged(f"the trained adapter is not published: {fault}") from fault
    files = {
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
        CONFIG: json.dumps(config, indent=2, sort_keys=True).encode() + b"\n",
    }
    manifest = publish(Path(current.spec.out), files, lambda folder: _manifest(folder, spec))
    return {"adapter": manifest.digest, "rows": len(rows), "loss": loss}


def tokenised(base: Base, row: Row, max_tokens: int) -> Example:
    """A row in tokens.

    Raises:
        BadSpec: `bad_data`, the row is longer than `max_tokens`. It is never cut: half an answer teaches the wrong end.
    """
    prompt = base.prompt_ids(row.prompt)
    ids = prompt + base.answer_ids(row.answer)
    if len(ids) > max_tokens:
        raise BadSpec("bad_data", f"{row.where}: {len(ids)} tokens, at most {max_tokens} are allowed (max_tokens)")
    return Example(ids, len(prompt))


def batches(examples: list[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Endless batches; every example once before any a second time, in an order that the seed gives."""
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(len(examples), generator=generator).tolist()
        yield [examples[i] for i in queue[:size]]
        queue = queue[size:]


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Of the step with this number, counted from 0."""
    warm = max(1, round(spec.steps * WARM_UP))
    rising = (step + 1) / warm
    falling = (spec.steps - step) / max(1, spec.steps - warm)
    return spec.learning_rate * min(1.0, rising, falling)


def answer_loss(base: Base, model: Any, batch: list[Example]) -> torch.Tensor:
    """Mean cross-entropy (nats) over the answers' tokens. The head is applied to those positions only."""
    width = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), width), base.pad)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    wanted = torch.zeros(len(batch), width, dtype=torch.bool)
    for i, example in enumerate(batch):
        ids[i, : len(example.ids)] = torch.tensor(example.ids)
        mask[i, : len(example.ids)] = 1
        wanted[i, example.answer_at : len(example.ids)] = True
    causal = model.get_base_model()
    hidden = causal.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    logits = causal.get_output_embeddings()(hidden[:, :-1][wanted[:, 1:]])
    return functional.cross_entropy(logits.float(), ids[:, 1:][wanted[:, 1:]])


def _optimise(current: Run, base: Base, model: Any, examples: list[Example], spec: TrainSpec) -> float:
    """Runs the steps; returns the loss of the last one.

    Raises:
        Diverged: a loss or a gradient is not finite. The step is not taken.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.0)
    model.train()
    value = 0.0
    for step, batch in zip(range(spec.steps), batches(examples, spec.batch, spec.seed), strict=False):
        began = time.monotonic()
        rate = learning_rate(spec, step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = answer_loss(base, model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, CLIP))
        value = loss.item()
        if not (_finite(value) and _finite(norm)):
            raise Diverged(f"step {step + 1}: loss {value}, gradient norm {norm}; lower the learning rate")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        tokens = sum(len(example.ids) for example in batch)
        current.progress(
            step + 1,
            spec.steps,
            loss=value,
            grad_norm=norm,
            learning_rate=rate,
            tokens_per_second=tokens / (time.monotonic() - began),
        )
        current.check()
    return value


def _with_adapter(base: Base, spec: TrainSpec) -> tuple[Any, dict[str, Any]]:
    """The base wrapped with a fresh adapter, and the adapter's configuration without a path of this machine."""
    try:
        lora = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            target_modules=list(spec.target_modules),
            bias="none",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(base.model, lora)
    except ValueError as error:
        raise BadSpec("bad_spec", f"target_modules {list(spec.target_modules)} do not fit the base: {error}") from error
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in lora.to_dict().items()}
    # What the base is, is said by the manifest; a folder of this machine is nobody else's.
    config.update(base_model_name_or_path=None, inference_mode=True, auto_mapping=None, revision=None)
    return model, json.loads(json.dumps(config, default=str))


def _start_from(model: Any, folder: Path, config: dict[str, Any], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Puts the parent's weights in place of the fresh ones.

    Raises:
        BadSpec: `bad_parent`, it has other modules or another rank.
    """
    tensors = load_file(folder / WEIGHTS)
    try:
        check_tensors(tensors, expected_shapes(config, shapes))
    except AdapterFault as fault:
        raise BadSpec("bad_parent", f"the parent adapter does not fit this recipe: {fault}") from fault
    set_peft_model_state_dict(model, tensors)


def _manifest(folder: Path, spec: TrainSpec) -> AdapterManifest:
    return AdapterManifest(
        tenant=spec.tenant,
        name=spec.name,
        base=spec.base,
        files=scan(folder),
        rank=spec.rank,
        alpha=spec.alpha,
        target_modules=tuple(sorted(spec.target_modules)),
        config_hash=digest_of(spec),
        datasets=spec.datasets,
        parent=spec.parent,
        decision=spec.decision,
    )


def _input(current: Run, digest: str) -> Path:
    try:
        return Path(current.spec.inputs[digest])
    except KeyError as error:
        raise BadSpec("bad_spec", f"the spec gives no folder for the input {digest}") from error


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


if __name__ == "__main__":
    sys.exit(run("train", train))
