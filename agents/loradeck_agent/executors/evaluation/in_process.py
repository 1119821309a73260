"""Has a model in this process answer the items of a suite, and makes the tokens in which they are asked.

Answers are greedy, with the margin of every token, or the likeliest of given choices. `greedy` and `likelihoods` share
no code with the embedded engine on purpose: a canary record made here and a proof made there agree only if both compute
the same thing. `posed` and `measured` put items as an arm of a worksheet asks them.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from loradeck.schemas.attestation import ItemResult
from loradeck.schemas.suite import Arm, ItemKind, SuiteItem, name_of
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.evaluation.scoring import chosen, scored
from loradeck_agent.executors.protocol import BadSpec


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


def answered_here(
    base: Base,
    model: Any,
    items: Sequence[SuiteItem],
    schema: Mapping[str, Any] | None,
    *,
    batch: int,
    max_new_tokens: int,
) -> Iterator[tuple[list[ItemResult], float]]:
    """Answers items, those of similar length together and those that compare choices one by one.

    Yields results as they come, in the order in which they were answered, and the tokens a second of their answers (0
    of choices, which are read).

    Args:
        schema: the suite's answer schema.
        batch: items that are answered at once.

    Raises: BadSpec: see `item_tokens` and `choice_tokens`.
    """
    prompts = {item.id: item_tokens(base, item) for item in items}
    ordered = sorted(items, key=lambda item: (len(prompts[item.id]), item.id))
    generated = [item for item in ordered if item.kind is not ItemKind.CHOICE]
    for start in range(0, len(generated), batch):
        part, began = generated[start : start + batch], time.monotonic()
        found = greedy(model, [prompts[item.id] for item in part], max_new_tokens, eos=base.eos, pad=base.pad)
        took = time.monotonic() - began
        answers = [
            scored(item, base.text(one.tokens), schema, round(took * 1000, 3)).model_copy(
                update={"margin": round(min(one.margins), 4)}
            )
            for item, one in zip(part, found, strict=True)
        ]
        yield answers, sum(len(one.tokens) for one in found) / took
    for item in ordered:
        if item.kind is ItemKind.CHOICE:
            began = time.monotonic()
            prompt, choices = choice_tokens(base, item)
            logs = likelihoods(model, prompt, choices, pad=base.pad)
            yield [chosen(item, logs, round((time.monotonic() - began) * 1000, 3))], 0.0


def item_tokens(base: Base, item: SuiteItem) -> list[int]:
    """Tokens of an item's conversation, its tools included.

    Raises: BadSpec: `template_no_tools`: neither the base's chat template nor the conversation names a tool of the
    item, so the model would be scored on tools that it was never shown.
    """
    return prompt_tokens(base, [dict(message) for message in item.prompt], item.tools, f"item {item.id!r}")


def prompt_tokens(base: Base, messages: list[dict[str, str]], tools: Sequence[dict[str, Any]], where: str) -> list[int]:
    """Tokens of a conversation with its tools up to where an answer begins. `where` names it in messages.

    Raises: BadSpec: `template_no_tools`.
    """
    if not tools:
        return base.prompt_ids(messages)
    template = base.tokenizer.apply_chat_template
    text = template(messages, tools=list(tools), add_generation_prompt=True, tokenize=False)
    hidden = [name_of(tool) for tool in tools if str(name_of(tool)) not in text]
    if hidden:
        raise BadSpec(
            "template_no_tools",
            f"{where}: the base's chat template does not write the tool {hidden[0]!r}; name the tools in the messages "
            "themselves, as callers do when the model serves",
        )
    return list(template(messages, tools=list(tools), add_generation_prompt=True, return_dict=False))


def choice_tokens(base: Base, item: SuiteItem) -> tuple[list[int], list[list[int]]]:
    """Tokens of a multiple-choice item's prompt, and of each choice after it, cut as lm-eval does.

    White space at the end of the prompt counts as the beginning of each choice, and tokens are those of the whole text:
    a token may reach over the seam.

    Raises: BadSpec: `bad_data`: a choice has no tokens.
    """

    def tokens(text: str) -> list[int]:
        return list(base.tokenizer(text, add_special_tokens=False)["input_ids"])

    text = base.prompt_text([dict(message) for message in item.prompt])
    prompt = tokens(text.rstrip())
    choices = [tokens(text + choice)[len(prompt) :] for choice in item.choices]
    for choice, after in zip(item.choices, choices, strict=True):
        if not (prompt and choice and after):
            raise BadSpec("bad_data", f"item {item.id!r}: the choice {choice!r} has no tokens")
    return prompt, choices


_BRACKETS = re.compile(r"\[[^\[\]]+\]")


def posed(item: SuiteItem, arm: Arm) -> SuiteItem:
    """Returns an item as an arm puts it: behind the arm's system message and examples, and with its own texts.

    The texts stand before the question where the arm has them shown, each as `[id] text`.
    """
    messages = [dict(message) for message in item.prompt]
    if arm.contexts and item.contexts:
        shown = "\n".join(f"[{context.id}] {context.text}" for context in item.contexts)
        messages[-1]["content"] = f"{shown}\n\n{messages[-1]['content']}"
    if arm.system and messages[0]["role"] == "system":
        messages[0]["content"] = f"{arm.system}\n{messages[0]['content']}"
    elif arm.system:
        messages.insert(0, {"role": "system", "content": arm.system})
    at = int(messages[0]["role"] == "system")
    pairs = ((("user", shot.prompt), ("assistant", shot.answer)) for shot in arm.shots)
    messages[at:at] = [{"role": role, "content": text} for pair in pairs for role, text in pair]
    return item.model_copy(update={"prompt": tuple(messages)})


def measured(item: SuiteItem, result: ItemResult, arm: Arm, base: Base, schema: Mapping[str, Any] | None) -> ItemResult:
    """Returns a result with its numbers of tokens, and scored without the citations in its answer.

    Where the item says which text has the truth, they are right if that one is among them, and a text answer has no
    other brackets than the right one: those would cite what was not shown.
    """
    tokens = (len(item_tokens(base, item)), len(base.tokenizer(result.answer, add_special_tokens=False)["input_ids"]))
    if not arm.contexts or not item.contexts or item.kind is ItemKind.CHOICE:
        return result.model_copy(update={"tokens": tokens})
    citation = re.compile(rf"\s*\[({'|'.join(re.escape(context.id) for context in item.contexts)})\]")
    answer = citation.sub("", result.answer)
    made_up = item.kind is ItemKind.EXACT and set(_BRACKETS.findall(answer)) - set(_BRACKETS.findall(str(item.answer)))
    right = None if item.cites is None else item.cites in citation.findall(result.answer) and not made_up
    again = scored(item, answer, schema, result.ms)
    return again.model_copy(update={"answer": result.answer, "tokens": tokens, "cited": right})
