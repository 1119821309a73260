"""The KTO objective: answers that are good or bad by themselves, without pairs.

Source: KTO, arXiv:2402.01306, equations 7 and 8, computed as trl's KTOTrainer does. The loss of a row depends on how
far the model has drifted from the base on answers to other prompts. trl takes that from each piece of a batch; here it
is of the whole step, so that a step does not depend on how it is cut into pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from loradeck_agent.executors.training.answers import AnswerReader
from loradeck_agent.executors.training.templates import Example


def kto_losses(
    ratio: torch.Tensor, good: torch.Tensor, drift: float, beta: float, weights: tuple[float, float]
) -> torch.Tensor:
    """Loss of each row: `[rows]`.

    Args:
        ratio: log-probability of its answer by the model less that by the base, in nats: `[rows]`.
        good: whether the answer is one to learn, else one to unlearn: `[rows]`.
        drift: the divergence from the base on mismatched answers, in nats, not below 0.
        weights: of good rows and of bad ones.
    """
    signed = torch.where(good, ratio - drift, drift - ratio)
    return torch.where(good, weights[0], weights[1]) * (1 - torch.sigmoid(beta * signed))


def balanced(good: float, bad: float) -> tuple[float, float]:
    """Weights of good and bad rows with which the rarer kind weighs as much as the other (section 4.2 of the paper)."""
    return max(1.0, bad / (good or 1)), max(1.0, good / (bad or 1))


@dataclass(eq=False)
class Kto:
    """KTO as a mean over a step's rows. The reference is the base: the model with its adapter disabled."""

    _reader: AnswerReader
    _beta: float
    _weights: tuple[float, float]
    _drifts: tuple[Sequence[Example], float] | None = field(default=None, init=False)

    def size(self, examples: Sequence[Example]) -> float:
        """The divisor of a step's loss: its rows."""
        return float(len(examples))

    def loss(self, examples: Sequence[Example], step: Sequence[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        """This piece's share of the step's loss, and of its metrics."""
        drift = self._drift(step, len(examples))
        ratio, good = self._ratio(examples), self._good(examples)
        loss = kto_losses(ratio, good, drift, self._beta, self._weights).sum() / len(step)
        rewards = self._beta * ratio.detach()
        share = len(examples) / len(step)
        kinds = sum(example.good for example in step)
        metrics = {
            "loss": float(loss.detach()),
            "kl": drift * share,
            "reward_good": float(rewards[good].sum()) / max(1, kinds),
            "reward_bad": float(rewards[~good].sum()) / max(1, len(step) - kinds),
            "told_apart": float(((ratio > 0) == good).sum()) / len(step),
        }
        return loss, metrics

    @torch.no_grad()
    def look(self, examples: Sequence[Example]) -> list[tuple[float, float]]:
        """Validation: the loss of each row, and 1 where its answer moved to the side it belongs on."""
        ratio, good = self._ratio(examples), self._good(examples)
        losses = kto_losses(ratio, good, self._drift(examples, len(examples)), self._beta, self._weights)
        return list(zip(losses.cpu().tolist(), ((ratio > 0) == good).double().cpu().tolist(), strict=True))

    def _good(self, examples: Sequence[Example]) -> torch.Tensor:
        return torch.tensor([example.good for example in examples], device=self._reader.trained.device)

    def _ratio(self, examples: Sequence[Example]) -> torch.Tensor:
        batch = self._reader.batch(examples)
        with torch.no_grad(), self._reader.trained.as_base():
            base = batch.summed(self._reader.logps(batch), len(examples))
        return batch.summed(self._reader.logps(batch), len(examples)) - base

    @torch.no_grad()
    def _drift(self, step: Sequence[Example], piece: int) -> float:
        """Measures the drift from the base, in nats, on each prompt of the step with the answer of the next one."""
        if self._drifts is None or self._drifts[0] is not step:
            others = [*step[1:], step[0]]
            mixed = [
                Example(one.ids[: one.answer_at] + other.ids[other.answer_at :], one.answer_at)
                for one, other in zip(step, others, strict=True)
            ]
            parts = [self._ratio(mixed[at : at + piece]) for at in range(0, len(mixed), piece)]
            self._drifts = step, max(0.0, float(torch.cat(parts).mean()))
        return self._drifts[1]
