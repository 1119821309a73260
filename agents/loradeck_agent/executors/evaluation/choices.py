"""Likelihoods of given answers, by which multiple-choice items (general capability) are scored."""

from __future__ import annotations

from typing import Any

import torch


@torch.inference_mode()
def likelihoods(model: Any, prompt: list[int], answers: list[list[int]], *, pad: int) -> list[float]:
    """Mean log-probability per token (nats) of each answer after a prompt; the mean keeps long answers comparable.

    Prompt and answers are tokens; all answers are read in one batch, padded on the right.

    Raises:
        ValueError: an answer has no tokens.
    """
    if not all(answers):
        raise ValueError("an answer without tokens")
    width = max(len(answer) for answer in answers)
    ids = torch.tensor([[*prompt, *a, *([pad] * (width - len(a)))] for a in answers], device=model.device)
    mask = torch.tensor([[1] * (len(prompt) + len(a)) + [0] * (width - len(a)) for a in answers], device=model.device)
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=width + 1).logits
    # The first kept position is the prompt's last token: it says what the answer begins with.
    logs = torch.log_softmax(logits[:, :-1].float(), -1)
    chosen = logs.gather(-1, ids[:, len(prompt) :, None])[..., 0]
    return [float(row[: len(answer)].mean()) for row, answer in zip(chosen, answers, strict=True)]
