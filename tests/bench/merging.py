"""A merge on SmolLM2-135M, from the base's files to merged files that are hashed and on the disk.

In a process of its own, beside what the libraries offer (peft's `merge_and_unload` in fp32, cast and saved, not
synced), and beside copying the base and syncing it.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.executors import child, cores, version
from tests.bench.rows import Row
from tests.fakes.word_model import MODULES

from base_model import ensure_base

ROUNDS = 5


@dataclass
class _Merges:
    ours: list[dict[str, float]] = field(default_factory=list)
    peft: list[dict[str, float]] = field(default_factory=list)
    copies: list[dict[str, float]] = field(default_factory=list)


def measure(*, rounds: int = ROUNDS) -> list[Row]:
    """About two minutes on two free cores."""
    with tempfile.TemporaryDirectory(prefix="ld") as name:
        return _merge_rows(ensure_base(), Path(name), rounds)


def _merge_rows(base: Path, folder: Path, rounds: int) -> list[Row]:
    adapter = _adapter(folder / "adapter", base)
    found = _Merges()
    for _ in range(rounds):
        for kind, results in (("copy", found.copies), ("merge", found.ours), ("peft", found.peft)):
            shutil.rmtree(folder / kind, ignore_errors=True)
            task = {"base": str(base), "adapter": str(adapter), "out": str(folder / kind), "threads": cores()}
            results.append(child(kind, folder, task))
    shard = max(path.stat().st_size for path in base.glob("*.safetensors")) / 1e6
    peak, peft_peak = _worst(found.ours, "peak_mb"), _worst(found.peft, "peak_mb")
    took, floor, peer = (_median(each, "seconds") for each in (found.ours, found.copies, found.peft))
    what, of_peft = (
        "merge of SmolLM2-135M, rank 8, all linear",
        f"peer: peft {version('peft')} merge_and_unload and save",
    )
    return [
        Row(f"{what}: peak memory above the imports", peak, "MB", rounds, how="the highest of all rounds"),
        Row(
            f"{what}: that against the largest shard",
            peak / shard,
            "x",
            rounds,
            1.5,
            how=f"{shard:.0f} MB",
            reference="floor",
        ),
        Row(f"{of_peft}: peak memory above the imports", peft_peak, "MB", rounds),
        Row(f"{what}: time", took, "s", rounds, how="read, hashed on both sides, written, synced; median"),
        Row("floor: cp + fsync of the base", floor, "s", rounds, how="median"),
        Row(f"{what}: times that of cp + fsync", took / floor, "x", rounds, 4.0, reference="floor"),
        Row(f"{of_peft}: time", peer, "s", rounds, how="not synced; median"),
        Row(
            "weights that differ from peft's fp32 merge, cast once",
            _differing(folder / "merge", folder / "peft"),
            "weights",
            1,
            0,
            unwaivable=True,
            how="of all of the base, bit for bit",
        ),
    ]


def _adapter(folder: Path, base: Path) -> Path:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(AutoConfig.from_pretrained(base))
    random = torch.Generator().manual_seed(1)
    tensors = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in MODULES:
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(8, module.in_features, generator=random) * 0.02
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(module.out_features, 8, generator=random) * 0.02
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
    config |= {"target_modules": list(MODULES), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _differing(ours: Path, theirs: Path) -> int:
    """Weights that are not the same. peft unties the output head, which is then another name of the embeddings."""
    import torch
    from safetensors.torch import load_file

    a, b = (
        {key: tensor for path in folder.glob("*.safetensors") for key, tensor in load_file(path).items()}
        for folder in (ours, theirs)
    )
    lacking = [key for key in a.keys() ^ b.keys() if key != "lm_head.weight"]
    return len(lacking) + sum(not torch.equal(a[key], b[key]) for key in a.keys() & b.keys())


def _median(found: Sequence[dict[str, float]], key: str) -> float:
    return statistics.median(each[key] for each in found)


def _worst(found: Sequence[dict[str, float]], key: str) -> float:
    return max(each[key] for each in found)
