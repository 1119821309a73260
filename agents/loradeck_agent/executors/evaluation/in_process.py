"""Has a model in this process answer the items of a suite, and makes the tokens in which they are asked."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loradeck.schemas.attestation import ItemResult
from loradeck.schemas.suite import ItemKind, SuiteItem, name_of
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.evaluation.greedy import greedy, likelihoods
from loradeck_agent.executors.evaluation.scoring import chosen, scored
from loradeck_agent.executors.protocol import BadSpec


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
