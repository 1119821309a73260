"""What the planner says of vLLM's memory for adapters is what vLLM allocates: alone, on two workers, on four and eight.

Of two workers each is asked. Four and eight are built one of them at a time, as vLLM builds it (`lora_bytes.py`), for
models of real size and for each kind of model that is planned for.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fleets.processes.fleet import Material
from tests.vllm.lora_memory import FAKED, asked, asked_without_workers, planned

from loradeck.artifacts.adapters import read_base_config

pytestmark = pytest.mark.drawn(seconds=60)


@pytest.mark.parametrize("parallel", [1, 2])
def test_the_plan_is_what_vllm_allocates(material: Material, parallel: int) -> None:
    allocated = asked(material.base, parallel, 4, 16)
    assert len(allocated) == parallel
    for one in allocated:
        assert planned(read_base_config(material.base), 4, 16, parallel) == pytest.approx(one, rel=0.03)


def test_the_plan_is_what_a_worker_of_four_or_eight_allocates(tmp_path: Path) -> None:
    parallels = (1, 2, 4, 8)
    found = asked_without_workers(tmp_path, FAKED, parallels, 8, 64)
    allocated = dict(zip(FAKED, found, strict=True))
    plans = {name: [planned(config, 8, 64, parallel) for parallel in parallels] for name, config in FAKED.items()}
    assert plans == {name: pytest.approx(sizes, rel=0.03) for name, sizes in allocated.items()}
