"""Answers of a model in batches: greedy ones with the margin of every token, and the likelihoods of given ones.

Multiple-choice items (general capability) are scored by likelihoods.

It shares no code with the embedded engine on purpose: a canary record made here and a proof made there agree only if
both compute the same thing.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache


@dataclass
class Greedy:
    """A greedy answer: its tokens with the end token, and each one's margin: top-1 minus top-2, in nats."""

    tokens: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)


@torch.inference_mode()
def greedy(
    model: Any, prompts: list[list[int]], max_new_tokens: int, *, eos: int, pad: int, temperature: float = 0.0
) -> list[Greedy]:
    """Decodes the greedy answer to each prompt, at most `max_new_tokens` long and ended by `eos`.

    Prompts are tokens. What all of them begin with (the chat template's system part, an instruction) is computed once;
    the rest is padded on the left to one batch on the model's device. With a temperature tokens are drawn instead, by
    torch's generator; the margins stay those of the two likeliest.
    """
    shared = _common(prompts)
    cache = DynamicCache()
    if shared:
        begin = torch.tensor([prompts[0][:shared]], device=model.device)
        model(input_ids=begin, cache=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompts))
    rest = [prompt[shared:] for prompt in prompts]
    width = max(map(len, rest))
    ids = torch.tensor([[pad] * (width - len(tokens)) + tokens for tokens in rest], device=model.device)
    columns = [[1] * shared + [0] * (width - len(tokens)) + [1] * len(tokens) for tokens in rest]
    mask = torch.tensor(columns, device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
    answers = [Greedy() for _ in prompts]
    for _ in range(max_new_tokens):
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1]
        best = torch.log_softmax(logits.float(), -1).topk(2)
        ids = best.indices[:, :1]
        if temperature:
            ids = torch.multinomial(torch.softmax(logits.float() / temperature, -1), 1)
        for row, answer in enumerate(answers):
            if not answer.tokens or answer.tokens[-1] != eos:
                answer.tokens.append(int(ids[row, 0]))
                answer.margins.append(float(best.values[row, 0] - best.values[row, 1]))
        if all(answer.tokens[-1] == eos for answer in answers):
            break
        mask = torch.cat([mask, torch.ones_like(ids)], -1)
        positions = positions[:, -1:] + 1
    return answers


def _common(prompts: list[list[int]]) -> int:
    """Number of tokens with which all prompts begin; each keeps a last token of its own. 0 for a single prompt."""
    if len(prompts) == 1:
        return 0
    first, last = min(prompts), max(prompts)  # in order of tokens: what these two share, all do
    most = min(map(len, prompts)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


@torch.inference_mode()
def likelihoods(model: Any, prompt: list[int], answers: list[list[int]], *, pad: int) -> list[float]:
    """Log-probability (nats, summed over its tokens) of each answer after a prompt.

    Prompt and answers are tokens; all answers are read in one batch, padded on the right.

    Raises: ValueError: an answer has no tokens.
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
    return [float(row[: len(answer)].sum()) for row, answer in zip(chosen, answers, strict=True)]
