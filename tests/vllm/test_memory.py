"""What the planner says of vLLM's memory for adapters is what vLLM allocates: alone, on two workers, on four and eight.

Of two workers each is asked. Four and eight are built one of them at a time, as vLLM builds it (`lora_bytes.py`), for
models of real size and for each kind of model that is planned for.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fleet import Material
from tests.vllm.lora_memory import FAKED, TYPES, asked, planned

from loradeck.artifacts.adapters import read_base_config


@pytest.mark.parametrize("parallel", [1, 2])
def test_the_plan_is_what_vllm_allocates(material: Material, parallel: int) -> None:
    allocated = asked(material.base, str(parallel), 4, 16)
    assert len(allocated) == parallel
    for one in allocated:
        assert planned(read_base_config(material.base), 4, 16, parallel) == pytest.approx(one, rel=0.03)


@pytest.mark.parametrize("model", FAKED)
def test_the_plan_is_what_a_worker_of_four_or_eight_allocates(tmp_path: Path, model: str) -> None:
    kind = FAKED[model]["model_type"]
    more = {"architectures": [f"{TYPES[kind]}ForCausalLM"], "max_position_embeddings": 1024, "pad_token_id": 1}
    config = {"num_hidden_layers": 2, **FAKED[model], **more}
    (tmp_path / "config.json").write_text(json.dumps(config))
    parallels = (1, 2, 4, 8)
    allocated = asked(tmp_path, ",".join(map(str, parallels)), 8, 64, "faked")
    for parallel, one in zip(parallels, allocated, strict=True):
        assert planned(config, 8, 64, parallel) == pytest.approx(one, rel=0.03)
