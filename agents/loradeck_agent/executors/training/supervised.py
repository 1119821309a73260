"""The supervised objective: cross-entropy of the answers, optionally with a KL term that holds it near the base."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.trained import Trained


@dataclass(frozen=True)
class Padded:
    """A batch on the device: tokens padded on the right, the padding mask, and the mask of answer tokens.

    `ids`, `mask` and `wanted` are `[rows, width]`.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    wanted: torch.Tensor
    general: torch.Tensor
    """`[rows]`, true where the row is a general one (mixed in beside the task)."""


@dataclass(eq=False)
class Supervised:
    """Cross-entropy summed over a piece of a step, divided by the answer tokens of the whole step."""

    _trained: Trained
    _pad: int
    _kl: float
    _mixes: bool = False
    """Whether the recipe mixes general rows in: then the KL term is over their answers alone."""

    def size(self, examples: Sequence[Example]) -> float:
        """The divisor of a step's loss: the tokens of its answers."""
        return float(sum(example.answer_tokens for example in examples))

    def _held(self, examples: Sequence[Example]) -> int:
        """The answer tokens that the KL term is over."""
        return sum(example.answer_tokens for example in examples if example.general or not self._mixes)

    def loss(self, examples: Sequence[Example], step: Sequence[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        """This piece's share of the step's loss (nats per answer token), and of its metrics."""
        batch, size = self._padded(examples), self.size(step)
        hidden = self._hidden(batch)
        targets = batch.ids[:, 1:][batch.wanted[:, 1:]]
        logits = self._head(hidden[:, :-1][batch.wanted[:, 1:]])
        loss = functional.cross_entropy(logits, targets, reduction="sum") / size
        with torch.no_grad():
            metrics = {"loss": float(loss), "token_accuracy": float((logits.argmax(-1) == targets).sum()) / size}
        if self._kl:
            metrics["kl"] = 0.0
            if self._held(examples):
                divergence = self._divergence(batch, logits) / self._held(step)
                metrics["kl"] = float(divergence.detach())
                loss = loss + self._kl * divergence
        return loss, metrics

    @torch.no_grad()
    def look(self, examples: Sequence[Example]) -> tuple[float, float]:
        """Validation: summed cross-entropy (nats) and the number of tokens predicted correctly."""
        batch = self._padded(examples)
        logits = self._head(self._hidden(batch)[:, :-1][batch.wanted[:, 1:]])
        targets = batch.ids[:, 1:][batch.wanted[:, 1:]]
        loss = functional.cross_entropy(logits, targets, reduction="sum")
        return float(loss), float((logits.argmax(-1) == targets).sum())

    def _divergence(self, batch: Padded, logits: torch.Tensor) -> torch.Tensor:
        """Summed KL(base || model) in nats over the answers that it is over: see `_mixes`."""
        with torch.no_grad(), self._trained.as_base():
            reference = self._head(self._hidden(batch)[:, :-1][batch.wanted[:, 1:]])
        ours, base = functional.log_softmax(logits, -1), functional.log_softmax(reference, -1)
        each = functional.kl_div(ours, base, reduction="none", log_target=True).sum(-1)
        if self._mixes:
            rows = batch.general[:, None].expand_as(batch.wanted[:, 1:])[batch.wanted[:, 1:]]
            each = each * rows
        return each.sum()

    def _hidden(self, batch: Padded) -> torch.Tensor:
        decoder: Any = self._trained.causal.get_decoder()
        hidden: torch.Tensor = decoder(
            input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
        ).last_hidden_state
        return hidden

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits at the given positions only; the head is the largest matrix, and only answers need it."""
        logits: torch.Tensor = self._trained.causal.get_output_embeddings()(hidden)
        return logits.float()

    def _padded(self, examples: Sequence[Example]) -> Padded:
        width = max(len(example.ids) for example in examples)
        ids = torch.full((len(examples), width), self._pad)
        mask = torch.zeros(len(examples), width, dtype=torch.long)
        wanted = torch.zeros(len(examples), width, dtype=torch.bool)
        for i, example in enumerate(examples):
            ids[i, : len(example.ids)] = torch.tensor(example.ids)
            mask[i, : len(example.ids)] = 1
            wanted[i, example.answer_at : len(example.ids)] = True
            for begin, end in example.between:
                wanted[i, begin:end] = False
        device = self._trained.device
        general = torch.tensor([example.general for example in examples])
        return Padded(ids.to(device), mask.to(device), wanted.to(device), general.to(device))
