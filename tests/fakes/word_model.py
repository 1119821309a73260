"""A two-layer random Llama that answers in words, and adapters for it: a real engine, milliseconds a request.

Its logits are scaled so that greedy margins are wide, as a trained model's are, and every adapter answers with
words of its own. So proof and the callers' judgement by tokens work as they do on a real model.
"""

from __future__ import annotations

import json
from pathlib import Path

WORDS = 200
RANK = 4
ALPHA = 8
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def write_base(folder: Path, *, seed: int = 0, head_dim: int = 8, ends: bool = False) -> Path:
    """A base with tokenizer and chat template; another seed is another base of the same shapes.

    vLLM on CPU takes heads of 32 and more. `ends`: any token is as likely as another: its answers end sometime.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "system", "user", "assistant"]
    vocab = {word: index for index, word in enumerate([*special, *(f"w{n}" for n in range(WORDS))])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(40)
        model.lm_head.weight.mul_(0 if ends else 400)
        # Words only: an answer never ends early, and never holds what a tokenizer leaves out.
        model.lm_head.weight[: len(special)] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_adapter(folder: Path, base: Path, *, seed: int, rank: int = RANK) -> Path:
    """A peft adapter whose answers differ from the base's and from other seeds'."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(AutoConfig.from_pretrained(base))
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in MODULES:
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, module.in_features, generator=random) * 0.15
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(module.out_features, rank, generator=random) * 0.5
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "target_modules": list(MODULES),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def reference_answers(base: Path, adapters: list[Path], prompts: list[str], *, tokens: int = 12) -> list[list[str]]:
    """Greedy answers straight from transformers and peft, without an engine: [adapter][prompt], the base's last."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # on a model this small more threads only wait for one another
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    for number, folder in enumerate(adapters):
        if number == 0:
            model = PeftModel.from_pretrained(model, folder, adapter_name="a0")
        else:
            model.load_adapter(folder, adapter_name=f"a{number}")

    def answer(prompt: str) -> str:
        chat = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            out = model.generate(**ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        text: str = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        return text

    answers = []
    for number in range(len(adapters)):
        model.set_adapter(f"a{number}")
        answers.append([answer(prompt) for prompt in prompts])
    with model.disable_adapter():
        answers.append([answer(prompt) for prompt in prompts])
    return answers
