"""Loading a base model for serving."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from loradeck.artifacts import base_manifest
from loradeck_agent.embedded.inference import Inference
from loradeck_agent.embedded.server import LoadedModel


def pad_token(tokenizer: Any) -> int:
    """Id to pad with: never the end-of-answer token, whatever the tokenizer's own configuration says."""
    eos = tokenizer.eos_token_id
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if token is not None and token != eos:
            return int(token)
    return 0 if eos != 0 else 1


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens at which an engine ends an answer: of the base's generation settings, and the tokenizer's own."""
    named = model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    return frozenset(int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None)


def load_model(base: Path, dtype: str, threads: int, max_length: int, mixed: int) -> LoadedModel:
    """Reads the base, takes its digest and starts the inference thread. `mixed`: adapters of one batch at most.

    Raises: OSError, ValueError: the folder is no complete model.
    """
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    digest = base_manifest(base, "-", "-").digest  # the names are no part of it
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
    inference = Inference(model, pad_token(tokenizer), threads, mixed)
    inference.start()
    length = min(max_length, int(model.config.max_position_embeddings))
    return LoadedModel(inference, tokenizer, digest, length, stop_tokens(model, tokenizer))
