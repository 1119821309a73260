"""What the planner says of vLLM's memory for adapters, beside what a vLLM on this machine's CPU allocates."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from tests import vllm_server
from tests.bench.rows import Row
from tests.fakes.word_model import write_base

from loradeck.artifacts.adapters import base_modules, embedding_modules, read_base_config
from loradeck.rules.serving.vram import vllm_bytes

SCRIPT = Path(__file__).parents[1] / "vllm" / "lora_bytes.py"
LORAS, RANK = 4, 16


def measure(*, parallels: tuple[int, ...] = (1, 2)) -> list[Row]:
    """About two minutes on two free cores; needs `LORADECK_VLLM_PYTHON`."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ld") as name:
        base = write_base(Path(name) / "base", head_dim=32)
        config = read_base_config(base)
        shapes, whole = base_modules(config), embedding_modules(config)
        assert shapes is not None
        for parallel in parallels:
            planned = vllm_bytes(shapes, 2, max_loras=LORAS, max_rank=RANK, parallel=parallel, whole=whole)
            command = [vllm_server.PYTHON or "", str(SCRIPT), str(base), str(parallel), str(LORAS), str(RANK)]
            env = {**os.environ, **vllm_server.ENV}
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)
            assert done.returncode == 0, done.stderr[-2000:]
            (line,) = [line for line in done.stdout.splitlines() if line.startswith("allocated: ")]
            allocated = max(json.loads(line.partition(" ")[2]))
            what = f"vLLM's tensors for {LORAS} adapters of rank {RANK}, tensor parallel {parallel}"
            rows += [
                Row(f"{what}: allocated on a worker", allocated / 1e3, "kB", parallel, how="a small Llama, in bf16"),
                Row(f"{what}: planned, off by", abs(planned / allocated - 1) * 100, "%", parallel, 3.0),
            ]
    return rows
