"""Puts the items of a suite as an arm of a worksheet asks them, and scores the answers without their citations."""

import re
from collections.abc import Mapping
from typing import Any

from loradeck.schemas.arm import Arm
from loradeck.schemas.attestation import ItemResult
from loradeck.schemas.suite import ItemKind, SuiteItem
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.evaluation.in_process import item_tokens
from loradeck_agent.executors.evaluation.scoring import scored

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
