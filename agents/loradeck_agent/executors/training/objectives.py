"""The objectives of methods: their loss over pieces of a step, and their measure of rows that are not trained on.

Those that learn of a teacher are in `distillation`.
"""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.training import AnswerForm, Method, Sampling, Structure
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.evaluation.in_process import greedy
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.trained import AnswerReader, Batch, Trained
from loradeck_agent.executors.training.verifiers import reward


class Objective(ABC):
    """The objective of a recipe."""

    def size(self, examples: Sequence[Example]) -> float:
        """The number of units by which a step's sums are divided: its rows, unless an objective counts others."""
        return float(len(examples))

    @abstractmethod
    def loss(self, examples: Sequence[Example], step: Sequence[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        """Returns one piece's share of a step's loss, and of its metrics; `step`: all rows of the step."""

    @abstractmethod
    def look(self, examples: Sequence[Example]) -> list[tuple[float, float]]:
        """Validation: the summed loss of each row, and the number of its units that are right."""


class OfTokens(Objective):
    """An objective whose units are the tokens of answers."""

    def size(self, examples: Sequence[Example]) -> float:
        """The divisor of a step's loss: the tokens of its answers."""
        return float(sum(example.answer_tokens for example in examples))


@dataclass(eq=False)
class Supervised(OfTokens):
    """Cross-entropy of the answers, optionally with a KL term that holds the model near the base.

    It is summed over a piece of a step, and divided by the answer tokens of the whole step.
    """

    _reader: AnswerReader
    _kl: float = 0.0
    _mixes: bool = False
    """The KL term is taken over the answers to general rows alone, as where the recipe mixes such rows in."""

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
class Kto(Objective):
    """KTO as a mean over a step's rows: answers that are good or bad by themselves, without pairs.

    Source: arXiv:2402.01306, equations 7 and 8, computed as trl's KTOTrainer does. The reference is the base: the model
    with its adapter disabled. The loss of a row depends on how far the model has drifted from the base on answers to
    other prompts. trl takes that from each piece of a batch; here it is of the whole step, so that a step does not
    depend on how it is cut into pieces.
    """

    _reader: AnswerReader
    _beta: float
    _weights: tuple[float, float]
    _drifts: tuple[Sequence[Example], float] | None = field(default=None, init=False)

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


LOSSES = {Method.DPO: "sigmoid", Method.IPO: "ipo"}


class Preferences(Objective):
    """DPO (arXiv:2305.18290) or IPO (arXiv:2310.12036) as a mean over a step's pairs.

    trl computes loss, rewards and log-probabilities, our loop takes the steps: trl's own logs a NaN as 0, keeps the
    newest checkpoint even when it is half written, and resumes without a missing optimizer state. It is imported only
    when a recipe asks for it.
    """

    def __init__(self, trained: Trained, base: Base, spec: TrainSpec) -> None:
        # Heavy, and needed by no other recipe.
        from datasets import Dataset, disable_progress_bars
        from trl import DPOConfig, DPOTrainer
        from trl.trainer.dpo_trainer import DataCollatorForPreference

        self._scratch = tempfile.TemporaryDirectory()  # trl makes a folder, and leaves nothing in it
        disable_progress_bars()
        # The reference is what the run starts from: trl copies the adapter as it is now. So this comes before any
        # checkpoint is put back.
        settings = DPOConfig(
            output_dir=self._scratch.name,
            loss_type=[LOSSES[spec.method]],
            beta=spec.beta,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=False,
            report_to="none",
            disable_tqdm=True,
            logging_nan_inf_filter=False,
            seed=spec.seed,
        )
        base.tokenizer.pad_token_id = base.pad
        # Rows are already tokens here; trl insists on one to look at.
        pair = [{"role": "assistant", "content": text} for text in ("a", "b")]
        shown = Dataset.from_list(
            [{"prompt": [{"role": "user", "content": "?"}], "chosen": pair[:1], "rejected": pair[1:]}]
        )
        self._trainer: Any = DPOTrainer(
            model=trained.model, args=settings, train_dataset=shown, processing_class=base.tokenizer
        )
        self._collate = DataCollatorForPreference(pad_token_id=base.pad)
        self._trained = trained
        for name, parameter in trained.model.named_parameters():
            parameter.requires_grad_(name in trained.names)

    def loss(self, examples: Sequence[Example], step: Sequence[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        """This piece's share of the step's loss, and of its metrics."""
        loss, found = self._measured(examples)
        share = len(examples) / len(step)
        names = {
            "token_accuracy": "mean_token_accuracy",
            "logps_chosen": "logps/chosen",
            "logps_rejected": "logps/rejected",
            "margin": "rewards/margins",
            "preferred": "rewards/accuracies",
        }
        metrics = {ours: found[theirs] * share for ours, theirs in names.items()}
        # The reward is beta times (log p of the model - log p of the reference).
        metrics["logps_reference"] = (found["logps/chosen"] - found["rewards/chosen"] / self._trainer.args.beta) * share
        metrics["loss"] = float(loss.detach()) * share
        return loss * share, metrics

    @torch.no_grad()
    def look(self, examples: Sequence[Example]) -> list[tuple[float, float]]:
        """Validation: the loss of each pair, and 1 where its chosen answer is preferred; trl says means alone."""
        told = (self._measured([example]) for example in examples)
        return [(float(loss), found["rewards/accuracies"]) for loss, found in told]

    def _measured(self, examples: Sequence[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        rows = [
            {
                "prompt_ids": example.ids[: example.answer_at],
                "chosen_ids": example.ids[example.answer_at :],
                "rejected_ids": list(example.rejected),
            }
            for example in examples
        ]
        inputs = {key: value.to(self._trained.device) for key, value in self._collate(rows).items()}
        loss: torch.Tensor = self._trainer.compute_loss(self._trained.model, inputs)
        kept = self._trainer._metrics["train" if self._trained.model.training else "eval"]
        found = {key: float(values[-1]) for key, values in kept.items()}
        kept.clear()
        return loss, found


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
class Grpo(Objective):
    """GRPO as a mean over a step's prompts: the model answers each several times, and is drawn to what earns more.

    Source: arXiv:2402.03300, in the form of Dr. GRPO (arXiv:2503.20783), trl's `dr_grpo` without scaling by the
    deviation: advantages are not divided by it, and sums are divided by the longest answer that was allowed, so that
    neither easy prompts nor long wrong answers weigh more. Answers are drawn from the model as it stands in this
    process, and used for one step: the ratio of old and new probabilities is 1, and nothing is clipped. Rewards compare
    with the rows' own answers, by the recipe's structure: see `verifiers.reward`.
    """

    _reader: AnswerReader
    _base: Base
    _sampling: Sampling
    _structure: Structure | None
    _kl: float
    _schema: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        text = self._structure.answer_schema if self._structure is not None else None
        self._schema = json.loads(text) if text else None

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
