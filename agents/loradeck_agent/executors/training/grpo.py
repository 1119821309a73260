"""The GRPO objective: the model answers each prompt several times, and what earns more than others is made likelier.

Source: GRPO, arXiv:2402.03300, in the form of Dr. GRPO (arXiv:2503.20783), trl's `dr_grpo` without scaling by the
deviation: advantages are not divided by it, and sums are divided by the longest answer that was allowed, so that
neither easy prompts nor long wrong answers weigh more. Answers are drawn from the model as it stands in this process,
and used for one step: the ratio of old and new probabilities is 1, and nothing is clipped. Their rewards are
`verifiers.reward`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from loradeck.schemas.training import AnswerForm, Sampling, Structure
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.evaluation.greedy import greedy
from loradeck_agent.executors.training.answers import AnswerReader
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.verifiers import reward


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """Subtracts from each answer's reward the mean of its group: `[prompts, group]`, as are the rewards."""
    return rewards - rewards.mean(-1, keepdim=True)


def policy_losses(
    logps: torch.Tensor, gains: torch.Tensor, base: torch.Tensor | None = None, kl: float = 0.0
) -> torch.Tensor:
    """Loss of each sampled token: `[tokens]`.

    Args:
        logps: its log-probability (nats): `[tokens]`.
        gains: the advantage of its answer: `[tokens]`.
        base: its log-probability by the base; with it `kl` weighs KL(model || base), estimated token by token.
    """
    losses = -gains * torch.exp(logps - logps.detach())
    return losses if base is None else losses + kl * (torch.exp(base - logps) - (base - logps) - 1)


@dataclass(eq=False)
class Grpo:
    """GRPO as a mean over a step's prompts; rewards compare with the rows' own answers, by the recipe's structure."""

    _reader: AnswerReader
    _base: Base
    _sampling: Sampling
    _structure: Structure | None
    _kl: float
    _schema: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        text = self._structure.answer_schema if self._structure is not None else None
        self._schema = json.loads(text) if text else None

    def size(self, examples: Sequence[Example]) -> float:
        """The divisor of a step's loss: its prompts."""
        return float(len(examples))

    def loss(self, examples: Sequence[Example], step: Sequence[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        """Samples answers, rewards them and returns this piece's share of the step's loss, and of its metrics."""
        group, share = self._sampling.group, len(examples) / len(step)
        asked = [example for example in examples for _ in range(group)]
        answers = self._answers(asked, self._sampling.temperature)
        rewards = torch.tensor(self._rewards(asked, answers), device=self._reader.trained.device)
        gains = advantages(rewards.view(-1, group)).reshape(-1)
        metrics = {
            "reward": float(rewards.mean()) * share,
            "sampled_tokens": sum(map(len, answers)) / len(answers) * share,
            "told_apart": float((gains.view(-1, group) != 0).any(-1).float().mean()) * share,
        }
        sampled = [
            Example(one.ids[: one.answer_at] + tokens, one.answer_at)
            for one, tokens in zip(asked, answers, strict=True)
        ]
        if not self._kl:  # what earned as much as the others has no gradient
            kept = gains.nonzero()[:, 0].tolist()
            sampled, gains = [sampled[at] for at in kept], gains[kept]
        if not sampled:
            return next(iter(self._reader.trained.names.values())).sum() * 0, {**metrics, "loss": 0.0}
        batch = self._reader.batch(sampled)
        logps, base = self._reader.logps(batch), None
        if self._kl:
            with torch.no_grad(), self._reader.trained.as_base():
                base = self._reader.logps(batch)
            metrics["kl"] = float((logps.detach() - base).mean()) * share
        losses = policy_losses(logps, gains[batch.rows], base, self._kl)
        loss = losses.sum() / (len(step) * group * self._sampling.max_new_tokens)
        return loss, {**metrics, "loss": float(loss.detach())}

    @torch.no_grad()
    def look(self, examples: Sequence[Example]) -> list[tuple[float, float]]:
        """Validation: what each greedy answer misses of a full reward, and 1 where it has it."""
        return [(1 - earned, float(earned == 1)) for earned in self._rewards(examples, self._answers(examples, 0.0))]

    def _answers(self, asked: Sequence[Example], temperature: float) -> list[list[int]]:
        prompts = [example.ids[: example.answer_at] for example in asked]
        most, eos, pad = self._sampling.max_new_tokens, self._base.eos, self._base.pad
        model = self._reader.trained
        with model.evaluating():
            found = greedy(model.model, prompts, most, eos=eos, pad=pad, temperature=temperature)
        return [answer.tokens for answer in found]

    def _rewards(self, asked: Sequence[Example], answers: Sequence[list[int]]) -> list[float]:
        form = self._structure.form if self._structure is not None else AnswerForm.TEXT
        ended = [tokens[-1] == self._base.eos for tokens in answers]  # what is cut off at the end is not an answer
        return [
            reward(form, self._schema, self._base.text(one.ids[one.answer_at :]), self._base.text(tokens))
            if whole
            else 0.0
            for one, tokens, whole in zip(asked, answers, ended, strict=True)
        ]
