"""Models that tests share: a two-layer random Llama made in a second, its adapters, and the real small base."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests import draw, resume, times
from tests.fakes.forked_children import fork_children
from tests.fleets.host import short_folder
from tests.fleets.processes.fleet import Material, make_material

# Engines and executors of three workers share few cores, and OpenMP's threads spin while they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The tests start hundreds of processes: what these import is compiled once, also where that is off by the environment.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest.register_assert_rewrite("tests.contract.backends.suite")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

MakeBase = Callable[..., Path]
MakeAdapter = Callable[..., Path]


def write_tiny_base(folder: Path, seed: int = 0, head_dim: int = 12) -> Path:
    """A random two-layer Llama with one token per byte; eos is also its configured pad token, as in SmolLM2."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,  # wide, so that the likeliest token stands clear of the next
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.config.pad_token_id = 2  # afterwards: torch starts the row of a padding token at zero, and eos needs one
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_adapter(
    base: Path, folder: Path, seed: int = 1, rank: int = 4, targets: tuple[str, ...] = TARGETS, scale: float = 0.3
) -> Path:
    """A random LoRA adapter for `base`, as peft would save it, strong enough to change the answers."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(AutoConfig.from_pretrained(base))
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in targets:
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, module.in_features, generator=random) * scale
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(module.out_features, rank, generator=random) * scale
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "target_modules": list(targets),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path leaves room for a Unix socket's name."""
    with short_folder() as made:
        yield made


@pytest.fixture
def forked_children() -> Iterator[None]:
    """What reads rows or makes keys is a process of its own as in the product, without its imports."""
    with pytest.MonkeyPatch.context() as patch:
        fork_children(patch)
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer random Llama."""
    return write_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def make_base() -> MakeBase:
    """`make_base(folder, seed, head_dim=12)`: another random base; of the same shapes where `head_dim` is the same."""
    return write_tiny_base


@pytest.fixture(scope="session")
def make_adapter() -> MakeAdapter:
    """`make_adapter(base, folder, seed=1, rank=4, targets=..., scale=0.3)`: a random adapter for a base."""
    return write_adapter


@pytest.fixture(scope="session")
def real_base() -> Path:
    """Folder of SmolLM2-135M-Instruct, converted on first use (20 s) into the user's cache."""
    from base_model import ensure_base

    return ensure_base()


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """The word model with three adapters and their answers; fleets on it are made by the tests that need them."""
    return make_material(tmp_path_factory.mktemp("material"))


def pytest_addoption(parser: pytest.Parser) -> None:
    draw.add_options(parser)
    resume.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    # Seconds of a shared machine say nothing about an example.
    settings.register_profile("without deadlines", deadline=None)
    settings.load_profile("without deadlines")
    for plugin in (times, draw, resume):
        plugin.register(config)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keeps the collector off what was imported and collected: it took a fifth of a worker's time to go through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
