"""A probe of merged weights: how far their next-token distributions diverge from those of base + adapter.

Base + adapter answers fixed prompts greedily; over the tokens of those answers its distributions are compared with
those of the merged weights, and of the base alone. One model is in memory at a time.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from loradeck.schemas.attestation import MergeProbe
from loradeck_agent.executors.base import read_base
from loradeck_agent.executors.evaluate import with_adapter
from loradeck_agent.executors.evaluation.greedy import greedy

PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "My order arrived broken and I want my money back.",
    'Answer as JSON with the key "ok".',
)
"""Prompts of every probe, so that a route without canaries is probed too."""

TOKENS = 16
"""Longest answer that is compared, in tokens."""

_LogProbs = list[torch.Tensor]
"""Log-probabilities `[tokens, vocabulary]` of each answer."""


def probe(
    base: Path,
    adapter: Path,
    merged: Path,
    canaries: Sequence[Sequence[dict[str, str]]],
    between: Callable[[], None] = lambda: None,
) -> MergeProbe:
    """Measures how far the weights in `merged` diverge from the base under `adapter`.

    Args:
        canaries: a route's own conversations, probed beside `PROMPTS`.
        between: called between answers; may raise to end the probe.

    Raises: BadSpec: `bad_adapter`: see `with_adapter`.
    """
    here = read_base(base)
    if getattr(here.model, "hf_quantizer", None) is not None:
        here.model = here.model.dequantize().cpu().float()  # its own products on a CPU do not take every shape
    asked = [[{"role": "user", "content": text}] for text in PROMPTS]
    asked += [[dict(message) for message in messages] for messages in canaries]
    prompts = [here.prompt_ids(messages) for messages in asked]
    model = with_adapter(here.model, adapter).eval()
    answers = []
    for prompt in prompts:
        answers.append(greedy(model, [prompt], TOKENS, eos=here.eos, pad=here.pad)[0].tokens)
        between()
    under_adapter = _log_probs(model, prompts, answers, between)
    with model.disable_adapter():
        alone = [
            _divergence(p, q) for p, q in zip(under_adapter, _log_probs(model, prompts, answers, between), strict=True)
        ]
    del model, here
    model = read_base(merged).model.eval()
    apart, agree = [], 0
    for p, q in zip(under_adapter, _log_probs(model, prompts, answers, between), strict=True):
        apart.append(_divergence(p, q))
        agree += int((p.argmax(-1) == q.argmax(-1)).sum())
    kl, kl_base = torch.cat(apart), torch.cat(alone)
    return MergeProbe(
        prompts=len(prompts),
        positions=len(kl),
        kl=float(kl.mean()),
        kl_worst=float(kl.max()),
        kl_base=float(kl_base.mean()),
        agree=agree,
    )


@torch.inference_mode()
def _log_probs(
    model: Any, prompts: list[list[int]], answers: list[list[int]], between: Callable[[], None]
) -> _LogProbs:
    """The model's log-probabilities at each token of each answer, given the tokens before it."""
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt + answer[:-1]], device=model.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer)).logits[0]
        between()
        found.append(torch.log_softmax(logits.float(), -1))
    return found


def _divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL divergence of each position, in nats; clamped, since rounding may put equal distributions just below 0."""
    return (p.double().exp() * (p.double() - q.double())).sum(-1).clamp(min=0)
