"""The base model that an executor works on, loaded after its files were compared with the spec's digest."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from loradeck.artifacts import BadArtifact, base_manifest
from loradeck.schemas.executor import ExecutorSpec
from loradeck.schemas.training import Precision
from loradeck_agent.embedded.server import pad_token
from loradeck_agent.executors.protocol import BadSpec
from loradeck_agent.executors.rows import Conversation

NO_THOUGHT = re.compile(r"\A\s*(?:<think>)?\s*</think>\s*")
"""The empty thought that templates of thinking models write before an answer; the prompt may have opened it."""


@dataclass
class Base:
    """A base model with its tokenizer.

    Attributes:
        model: in memory; of an outline it is on torch's meta device and has shapes alone. None: none was asked for.
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


def tokenizer_of(folder: Path, model: Any = None) -> Base:
    """A base's tokenizer; without its model for texts that an engine answers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Base(model, tokenizer, turn_end(tokenizer), pad_token(tokenizer))


def load_base(spec: ExecutorSpec) -> Base:
    """Loads the spec's base in fp32 after comparing the digest of its files with the spec's.

    Raises: BadSpec: `wrong_base`: the folder is no base, or its files have another digest.
    """
    base = outlined(spec)
    base.model = read_weights(Path(spec.base))
    return base


def outlined(spec: ExecutorSpec) -> Base:
    """Reads the spec's base without its weights, after comparing the digest of its files with the spec's.

    What is wrong with a recipe is found by it before gigabytes are read.

    Raises: BadSpec: `wrong_base`: the folder is no base, or its files have another digest.
    """
    torch.set_num_threads(spec.threads)
    folder = Path(spec.base)
    check_files(folder, spec.base_digest, "base")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return tokenizer_of(folder, model)


def check_files(folder: Path, digest: str, who: str) -> None:
    """Compares the digest of a base's files with the one that is named. `who`: whose they are, in messages.

    Raises: BadSpec: `wrong_base`: the folder is no base, or its files have another digest.
    """
    try:
        found = base_manifest(folder, "-", "-").digest
    except BadArtifact as error:
        raise BadSpec("wrong_base", f"the {who}: {error}") from error
    if found != digest:
        raise BadSpec("wrong_base", f"the {who}'s files have the digest {found}, {digest} is named")


def read_base(folder: Path) -> Base:
    """Loads model, in fp32, and tokenizer of a folder whose files the caller has checked."""
    return tokenizer_of(folder, read_weights(folder))


def read_weights(folder: Path, precision: Precision = Precision.FP32, device: torch.device | None = None) -> Any:
    """Loads the model of a folder whose files the caller has checked, straight onto `device`; None: the CPU.

    In nf4 all linear layers but the head are quantised and compute in bf16 (QLoRA, arXiv:2305.14314).

    Raises: BadSpec: `bad_spec`: nf4 without bitsandbytes.
    """
    transformers.utils.logging.disable_progress_bar()
    # transformers takes kernels by itself: code from a model hub, whose answers differ in their last bits.
    settings: dict[str, Any] = {"use_kernels": False}
    settings["dtype"] = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    if precision is Precision.NF4:
        if not transformers.utils.is_bitsandbytes_available():
            raise BadSpec("bad_spec", "nf4 needs bitsandbytes on this node; run: pip install 'loradeck[nf4]'")
        settings["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if device is not None or precision is Precision.NF4:
        settings["device_map"] = {"": device or torch.device("cpu")}
    return AutoModelForCausalLM.from_pretrained(folder, **settings)


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
