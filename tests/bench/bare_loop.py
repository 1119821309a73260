"""The bare library loop, and the train executor's loop in turns with it: a step of one after a step of the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from loradeck.schemas.executor import ExecutorSpec
from loradeck.schemas.jobs import TrainSpec
from loradeck_agent.executors.base import Base, load_base
from loradeck_agent.executors.protocol import Run
from loradeck_agent.executors.train import train
from loradeck_agent.executors.training.loop import CLIP, batches, learning_rate
from loradeck_agent.executors.training.templates import Example, tokenised
from loradeck_agent.executors.training.training_rows import read_lessons

IGNORED = -100
"""The label of a token that is not trained on."""

Loss = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def by_labels(model: Any, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As the libraries' own examples have it."""
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    return loss


def on_answers(model: Any, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same loss; the head, which is the largest matrix, is multiplied with answers only, as the executor does."""
    causal, wanted = model.get_base_model(), labels[:, 1:] != IGNORED
    hidden = causal.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return functional.cross_entropy(causal.get_output_embeddings()(hidden[:, :-1][wanted]), labels[:, 1:][wanted])


class BareLoop:
    """Model, AdamW and learning rates of a recipe, without anything around them."""

    def __init__(self, base: Path, spec: TrainSpec, loss: Loss, pad: int) -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        torch.manual_seed(spec.seed)
        lora = LoraConfig(
            r=spec.rank, lora_alpha=spec.alpha, target_modules=list(spec.target_modules), task_type="CAUSAL_LM"
        )
        self.model = get_peft_model(model, lora).train()
        self._learning = [p for p in self.model.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(self._learning, lr=spec.learning_rate, weight_decay=0.0)
        self._spec, self._loss, self._pad, self._done = spec, loss, pad, 0

    def step(self, rows: Sequence[Example]) -> float:
        """Takes a step; returns its seconds."""
        began = time.monotonic()
        width = max(len(row.ids) for row in rows)
        ids = torch.tensor([row.ids + [self._pad] * (width - len(row.ids)) for row in rows])
        mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
        answers = torch.tensor([[row.answer_at <= i < len(row.ids) for i in range(width)] for row in rows])
        self._loss(self.model, ids, mask, ids.masked_fill(~answers, IGNORED)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._learning, CLIP)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self._spec, self._done)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._done += 1
        return time.monotonic() - began


class Turns(Run):
    """A run that hands over to the bare loops after each of its steps, and has both timed."""

    def __init__(self, spec: ExecutorSpec, bare: dict[str, BareLoop], drawn: Sequence[Sequence[Example]]) -> None:
        super().__init__(spec)
        self._bare, self._drawn = bare, drawn
        self.seconds: dict[str, list[float]] = {"executor": [], **{name: [] for name in bare}}
        self._began = 0.0

    def beat(self) -> None:
        """The loop calls it at the end of every step. Before the first there is nothing to take turns with."""
        step, _ = self._step
        if step is None:
            return
        self.seconds["executor"].append(time.monotonic() - self._began)
        for name, loop in self._bare.items():
            self.seconds[name].append(loop.step(self._drawn[step - 1]))
        self._began = time.monotonic()


def turns(path: Path) -> dict[str, Any]:
    """Runs an ExecutorSpec's train recipe in turns with the bare loops.

    Returns:
        `seconds` of every step by loop, and its `tokens`, without the first step, which has the probe in it;
        `differing`, weights of the adapter that are not those of the loop with the head `on_answers`, bit for bit.
    """
    spec = ExecutorSpec.model_validate_json(path.read_bytes())
    recipe = spec.spec
    assert isinstance(recipe, TrainSpec)
    base = load_base(spec)
    drawn, pad = _drawn(base, spec, recipe), base.pad
    bare = {loss.__name__: BareLoop(Path(spec.base), recipe, loss, pad) for loss in (by_labels, on_answers)}
    del base
    current = Turns(spec, bare, drawn)
    train(current)
    ours = load_file(Path(spec.out) / "adapter_model.safetensors")
    theirs = get_peft_model_state_dict(bare["on_answers"].model)
    return {
        "seconds": {name: seconds[1:] for name, seconds in current.seconds.items()},
        "tokens": [sum(len(row.ids) for row in rows) for rows in drawn[1:]],
        "differing": sum(key not in theirs or not torch.equal(ours[key], theirs[key]) for key in ours),
    }


def _drawn(base: Base, spec: ExecutorSpec, recipe: TrainSpec) -> list[list[Example]]:
    """The rows of each step, in tokens."""
    (rows,) = spec.inputs.values()
    examples = [tokenised(base, lesson, recipe.max_tokens) for lesson in read_lessons(Path(rows), recipe)]
    stream = batches(examples, recipe.batch, recipe.seed)
    return [next(stream) for _ in range(recipe.steps)]
