"""The supervised objective: cross-entropy of the answers, optionally with a KL term that holds it near the base."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from loradeck_agent.executors.training.answers import AnswerReader, Batch
from loradeck_agent.executors.training.templates import Example


@dataclass(eq=False)
class Supervised:
    """Cross-entropy summed over a piece of a step, divided by the answer tokens of the whole step."""

    _reader: AnswerReader
    _kl: float = 0.0
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
        batch, size = self._reader.batch(examples), self.size(step)
        logits = self._reader.logits(batch)
        loss = functional.cross_entropy(logits, batch.targets, reduction="sum") / size
        with torch.no_grad():
            right = float((logits.argmax(-1) == batch.targets).sum())
            metrics = {"loss": float(loss), "token_accuracy": right / size}
        if self._kl:
            metrics["kl"] = 0.0
            if self._held(examples):
                divergence = self._divergence(examples, batch, logits) / self._held(step)
                metrics["kl"] = float(divergence.detach())
                loss = loss + self._kl * divergence
        return loss, metrics

    @torch.no_grad()
    def look(self, examples: Sequence[Example]) -> list[tuple[float, float]]:
        """Validation: of each row the summed cross-entropy (nats) and the number of tokens predicted correctly."""
        batch = self._reader.batch(examples)
        logits = self._reader.logits(batch)
        losses = functional.cross_entropy(logits, batch.targets, reduction="none")
        both = (losses, (logits.argmax(-1) == batch.targets).float())
        return list(zip(*(batch.summed(one, len(examples)).cpu().tolist() for one in both), strict=True))

    def _divergence(self, examples: Sequence[Example], batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """Summed KL(base || model) in nats over the answers that it is over: see `_mixes`."""
        with torch.no_grad(), self._reader.trained.as_base():
            reference = self._reader.logits(batch)
        ours, base = functional.log_softmax(logits, -1), functional.log_softmax(reference, -1)
        each = functional.kl_div(ours, base, reduction="none", log_target=True).sum(-1)
        if self._mixes:
            each = each * torch.tensor([float(example.general) for example in examples], device=each.device)[batch.rows]
        return each.sum()
