"""What the planner says of vLLM's memory for adapters is what vLLM allocates, alone and divided over two workers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests import vllm_server
from tests.fleet import Material

from loradeck.artifacts.adapters import base_modules, embedding_modules, read_base_config
from loradeck.rules.serving.vram import vllm_bytes

SCRIPT = Path(__file__).with_name("lora_bytes.py")


@pytest.mark.parametrize("parallel", [1, 2])
def test_the_plan_is_what_vllm_allocates(material: Material, parallel: int) -> None:
    config = read_base_config(material.base)
    shapes = base_modules(config)
    assert shapes is not None
    whole = embedding_modules(config)
    planned = vllm_bytes(shapes, 2, max_loras=4, max_rank=16, parallel=parallel, whole=whole)
    command = [vllm_server.PYTHON, str(SCRIPT), str(material.base), str(parallel), "4", "16"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=os.environ | vllm_server.ENV
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("allocated: ")]
    allocated = json.loads(line.partition(" ")[2])
    assert len(allocated) == parallel
    for one in allocated:
        assert planned == pytest.approx(one, rel=0.03)
