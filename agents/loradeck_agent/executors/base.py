"""The base model that an executor works on, loaded in fp32 after its files were compared with the spec's digest."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

from loradeck.artifacts import BadArtifact, base_manifest
from loradeck.schemas.jobs import ExecutorSpec
from loradeck_agent.embedded.model import pad_token
from loradeck_agent.executors.protocol import BadSpec
from loradeck_agent.executors.rows import Conversation

NO_THOUGHT = re.compile(r"\A\s*(?:<think>)?\s*</think>\s*")
"""The empty thought that templates of thinking models write before an answer; the prompt may have opened it."""


@dataclass
class Base:
    """A base model in memory, fp32, with its tokenizer.

    Attributes:
        eos: the token with which the base's chat template ends an answer.
        pad: never the tokenizer's own end token.
    """

    model: Any
    tokenizer: Any
    eos: int
    pad: int

    def prompt_ids(self, messages: Conversation) -> list[int]:
        """Tokens of a conversation up to the start of the answer, written by the base's own chat template."""
        return list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    def prompt_text(self, messages: Conversation) -> str:
        """Text of a conversation up to the start of the answer, written by the base's own chat template."""
        return str(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer, followed by the end-of-answer token."""
        return [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.eos]

    def text(self, tokens: list[int]) -> str:
        """Decodes an answer's tokens to text, without the token that ended it and an empty thought before it."""
        answer = tokens[:-1] if tokens and tokens[-1] == self.eos else tokens
        text = self.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return NO_THOUGHT.sub("", str(text))


def load_base(spec: ExecutorSpec) -> Base:
    """Loads the spec's base after comparing the digest of its files with the spec's.

    Raises: BadSpec: `wrong_base`: the folder is no base, or its files have another digest.
    """
    torch.set_num_threads(spec.threads)
    folder = Path(spec.base)
    try:
        found = base_manifest(folder, "-", "-").digest
    except BadArtifact as error:
        raise BadSpec("wrong_base", str(error)) from error
    if found != spec.base_digest:
        raise BadSpec("wrong_base", f"the base's files have the digest {found}, the spec names {spec.base_digest}")
    return read_base(folder)


def read_base(folder: Path) -> Base:
    """Loads model and tokenizer of a folder whose files the caller has checked."""
    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Base(model, tokenizer, turn_end(tokenizer), pad_token(tokenizer))


def turn_end(tokenizer: Any) -> int:
    """The special token that the chat template writes after an answer, which need not be the tokenizer's end token.

    The tokenizer's own where there is no template, or none of its tokens follows an answer.
    """
    if not isinstance(tokenizer.chat_template, str):
        return int(tokenizer.eos_token_id)
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except TemplateError:
        return int(tokenizer.eos_token_id)  # whoever asks for more by this template is refused
    rest = text[text.rindex("answer") + len("answer") :] if "answer" in text else ""
    first = next(iter(tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"]), None)
    return int(tokenizer.eos_token_id) if first is None or first not in tokenizer.all_special_ids else int(first)
