"""The preference objectives DPO and IPO: trl computes loss, rewards and log-probabilities, our loop takes the steps.

Sources: DPO, arXiv:2305.18290; IPO, arXiv:2310.12036. trl's own loop logs a NaN as 0, keeps the newest checkpoint even
when it is half written, and resumes without a missing optimizer state; so only its `compute_loss` is used. It is
imported only when a recipe asks for it.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.training import Method
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.trained import Trained

LOSSES = {Method.DPO: "sigmoid", Method.IPO: "ipo"}


class Preferences:
    """Preference loss as a mean over a step's pairs; each piece of the step contributes its share."""

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

    def size(self, examples: Sequence[Example]) -> float:
        """The divisor of a step's loss: its pairs."""
        return float(len(examples))

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
