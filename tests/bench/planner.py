"""What the planner says of vLLM's memory for adapters, beside what a vLLM on this machine's CPU allocates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.bench.rows import Row
from tests.fakes.word_model import write_base
from tests.vllm.lora_memory import FAKED, asked, asked_without_workers, planned

from loradeck.artifacts.adapters import read_base_config

LORAS, RANK = 4, 16


def measure(*, parallels: tuple[int, ...] = (1, 2), faked: tuple[int, ...] = (4, 8)) -> list[Row]:
    """About two minutes on two free cores; needs `LORADECK_VLLM_PYTHON`."""
    with tempfile.TemporaryDirectory(prefix="ld") as name:
        return _rows(Path(name), parallels, faked)


def _rows(folder: Path, parallels: tuple[int, ...], faked: tuple[int, ...]) -> list[Row]:
    rows: list[Row] = []

    def row(config: Any, parallel: int, allocated: int, how: str) -> None:
        what = f"vLLM's tensors for {LORAS} adapters of rank {RANK}, tensor parallel {parallel}"
        off = abs(planned(config, LORAS, RANK, parallel) / allocated - 1) * 100
        rows.append(Row(f"{what}: allocated on a worker", allocated / 1e3, "kB", parallel, how=how))
        rows.append(Row(f"{what}: planned", off, "% off", parallel, 3.0, reference="peer"))

    base = write_base(folder / "base", head_dim=32)
    for parallel in parallels:
        row(read_base_config(base), parallel, max(asked(base, parallel, LORAS, RANK)), "a small Llama, in bf16")
    large = {"Llama 3 8B": FAKED["Llama 3 8B"]}
    (found,) = asked_without_workers(folder, large, faked, LORAS, RANK)
    for parallel, allocated in zip(faked, found, strict=True):
        row(*large.values(), parallel, allocated, "Llama 3 8B in bf16: the first worker's layers, built without values")
    return rows
