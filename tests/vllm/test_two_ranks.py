"""The plugin in a vLLM of two ranks (tensor parallel, on CPU): what one of them holds, the other one does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import vllm_server
from tests.fleets.processes.fleet import PROMPTS, Material
from tests.vllm.attached import KEY, keep
from tests.vllm.conftest import WORKER_CALLS
from tests.vllm.test_levels import held, memory, post, worker_call
from tests.vllm_server import Server

pytestmark = pytest.mark.drawn(seconds=60)


@pytest.fixture(scope="module")
def both(material: Material) -> Iterator[Server]:
    env = WORKER_CALLS | {"VLLM_PLUGINS": "loradeck"}
    flags = ("--tensor-parallel-size", "2")
    with vllm_server.running(material.base, slots=1, cpu_slots=2, key=KEY, env=env, more=flags) as server:
        yield server


def test_each_rank_reads_holds_pins_and_gives_up_the_same_and_the_halves_answer_as_the_whole(
    both: Server, material: Material, tmp_path: Path
) -> None:
    for number, folder in enumerate(material.adapters):
        post(both, "load", name=f"a{number}", path=str(keep(folder, tmp_path))).raise_for_status()
        assert both.text(f"a{number}", PROMPTS[0]) == material.answers[number][0]
    assert [name for name, _ in held(both)] == ["a1", "a2"], "the first was pushed out on both"
    ranks = worker_call(both, "loradeck_residency", []).raise_for_status().json()["results"]
    assert len(ranks) == 2
    assert ranks[0] == ranks[1], "in the same order, and as near"
    assert memory(both)["read_in_loop"] == 0
    post(both, "pins", names=["a1"]).raise_for_status()
    assert [one["name"] for one in memory(both)["adapters"] if one["pinned"]] == ["a1"]
    wrong = keep(material.adapters[0], tmp_path / "wrong")
    (wrong / "adapter_config.json").write_text("{}")
    refused = post(both, "load", name="a9", path=str(wrong))
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong_digest")
    post(both, "unload", name="a2").raise_for_status()
    assert [name for name, _ in held(both)] == ["a1"]
