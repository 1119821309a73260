"""Plans from the command line; no hub is asked unless a node is named."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.handmade_adapters import write_base
from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode


def test_a_plan_says_how_many_adapters_of_each_rank_fit(tmp_path: Path) -> None:
    nobody = Desk(root=tmp_path)
    base = write_base(tmp_path / "base", vocab_size=32)
    made = nobody.json("plan", "vram", base, "--memory-gb", "0.01", "--cache-tokens", 100)
    assert (made["layers"], made["weights"], made["cache"]) == (14, 64, 100 * 2 * 2 * 2 * 12 * 2)
    per_rank = 2 * 2 * (3 * (48 + 96) + 2 * (48 + 48) + 2 * (48 + 24))
    reserved = 16 * (per_rank + 2 * 2 * (48 + 32))  # with the embedding and the head
    assert made["ranks"][2] == {"rank": 16, "bytes": reserved, "fit": int(made["left"] // reserved)}
    split = nobody.json("plan", "vram", base, "--memory-gb", "0.01", "--tensor-parallel", 2, "--module", "q_proj")
    assert split["ranks"][1]["bytes"] == 8 * 2 * 2 * (48 + 48 // 2)
    embedded = nobody.json("plan", "vram", base, "--memory-gb", 1, "--engine", "embedded", "--dtype", "float32")
    assert embedded["ranks"][0]["bytes"] == 2 * 2 * per_rank
    assert "RANK" in nobody.run("plan", "vram", base, "--memory-gb", 1).stdout


def test_a_plan_without_memory_or_for_what_is_not_known_is_refused(tmp_path: Path) -> None:
    nobody = Desk(root=tmp_path)
    base = write_base(tmp_path / "base", vocab_size=32)
    nobody.refused(2, "usage", "plan", "vram", base)
    nobody.refused(2, "usage", "plan", "vram", base, "--memory-gb", 1, "--module", "nothing")
    nobody.refused(2, "bad_artifact", "plan", "vram", tmp_path / "none", "--memory-gb", 1)
    other = write_base(tmp_path / "other", model_type="mamba")
    nobody.refused(1, "unsupported_base", "plan", "vram", other, "--memory-gb", 1)


def test_a_node_that_has_not_reported_its_memory_is_not_guessed_at(desk: Desk, node: SmallNode, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", vocab_size=32)
    desk.refused(1, "unknown_node", "plan", "vram", base, "--node", "nobody")
    desk.refused(1, "not_reported", "plan", "vram", base, "--node", node.name)
