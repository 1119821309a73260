"""Logits and log-probabilities of a model at the tokens of the answers in training rows, and at no others.

The head is the largest matrix of a small model, and only answers need it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from loradeck_agent.executors.protocol import BadSpec
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.trained import Trained

SAME = 0.05
"""Largest difference of two logits that are the same, as a share of the largest: what bf16 may leave, and no scale."""


@dataclass(frozen=True)
class Batch:
    """Rows on the device, one below the other and padded on the right, or one behind the other (packed).

    `ids`, `mask` and `positions` are `[rows, width]`; `mask` is None where nothing is padded, `positions` where they
    begin at 0 in each row. `places` is `[2, tokens]`: from where each answer token is predicted. `targets` are these
    tokens, `rows` the number of the example that each belongs to.
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    positions: torch.Tensor | None
    places: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor

    def summed(self, each: torch.Tensor, examples: int) -> torch.Tensor:
        """Sums a value of each answer token over the example that it belongs to: `[examples]`."""
        return torch.zeros(examples, dtype=each.dtype, device=each.device).index_add(0, self.rows, each)


@dataclass(eq=False)
class AnswerReader:
    """Reads rows with the model under training. `packed`: rows of a piece stand in one sequence, without padding."""

    trained: Trained
    pad: int
    packed: bool = False

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Lays rows out on the model's device."""
        lengths = [len(example.ids) for example in examples]
        places: list[tuple[int, int]] = []
        targets, rows = [], []
        begin = 0
        for i, example in enumerate(examples):
            for at in example.answer_places:
                places.append((0, begin + at - 1) if self.packed else (i, at - 1))
                targets.append(example.ids[at])
                rows.append(i)
            begin += len(example.ids)
        if self.packed:
            ids = [[token for example in examples for token in example.ids]]
            mask, positions = None, [[at for length in lengths for at in range(length)]]
        else:
            width = max(lengths)
            ids = [example.ids + [self.pad] * (width - len(example.ids)) for example in examples]
            mask, positions = [[1] * length + [0] * (width - length) for length in lengths], None
        device = self.trained.device
        return Batch(
            torch.tensor(ids, device=device),
            None if mask is None else torch.tensor(mask, device=device),
            None if positions is None else torch.tensor(positions, device=device),
            torch.tensor(places, dtype=torch.long, device=device).reshape(-1, 2).T,
            torch.tensor(targets, dtype=torch.long, device=device),
            torch.tensor(rows, dtype=torch.long, device=device),
        )

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Hidden states of all places: `[rows, width, hidden]`."""
        decoder: Any = self.trained.causal.get_decoder()
        found: torch.Tensor = decoder(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        return found

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits of the answer tokens, fp32: `[tokens, vocabulary]`."""
        hidden = self.hidden(batch)[batch.places[0], batch.places[1]]
        logits: torch.Tensor = self.trained.causal.get_output_embeddings()(hidden).float()
        config = self.trained.causal.config.get_text_config()
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
            logits = cap * torch.tanh(logits / cap)
        logits = logits * (getattr(config, "logit_scale", None) or 1.0)  # Cohere
        return logits / (getattr(config, "logits_scaling", None) or 1.0)  # Granite

    def logps(self, batch: Batch) -> torch.Tensor:
        """Log-probability (nats) of each answer token: `[tokens]`."""
        return torch.log_softmax(self.logits(batch), -1).gather(1, batch.targets[:, None])[:, 0]

    def check_logits(self, example: Example) -> None:
        """Checks that `logits` are those that the model's own forward computes, on the beginning of a row.

        With gradients, as in training: without them bitsandbytes computes four bits on a CPU by another way, which does
        not take every shape.

        Raises: BadSpec: `bad_spec`: this base does more to them than is known here.
        """
        batch = AnswerReader(self.trained, self.pad).batch([Example(example.ids[:64], 1)])
        with self.trained.evaluating():
            ours = self.logits(batch)
            theirs = self.trained.causal(input_ids=batch.ids, use_cache=False).logits[0, :-1].float()
        if (ours - theirs).abs().max() > SAME * theirs.abs().max():
            raise BadSpec(
                "bad_spec", "this base changes its logits after its head, in a way that is not known: choose another"
            )

    @torch.no_grad()
    def check_packing(self, examples: Sequence[Example]) -> None:
        """Checks that the model computes a row alike whatever stands before it in the sequence.

        Raises: BadSpec: `bad_spec`: this model mixes rows that are packed.
        """
        if len(examples) < 2:
            return
        first, second = examples[:2]
        other = Example([token ^ 1 for token in first.ids], first.answer_at)
        seen = [self.hidden(self.batch([one, second]))[0, len(first.ids) :] for one in (first, other)]
        if not torch.equal(*seen):
            raise BadSpec("bad_spec", "this base does not keep packed rows apart; leave packing out")
