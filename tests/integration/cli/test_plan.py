"""Plans from the command line; no hub is asked unless a node is named."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.handmade_adapters import write_base
from tests.fleets.waiting import wait_until
from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode

from loradeck.schemas.telemetry import Gpu, Host, MigInstance, NvLink


def reported(desk: Desk, node: SmallNode) -> None:
    """Waits until the hub has the GPUs that the node has now."""
    uuids = [gpu.uuid for gpu in node.gpus]
    wait_until("reported", lambda: [gpu["uuid"] for gpu in desk.json("node", "show", node.name)["gpus"]] == uuids)


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
    reported(desk, node)
    desk.refused(1, "unknown_node", "plan", "vram", base, "--node", "nobody")
    desk.refused(1, "not_reported", "plan", "vram", base, "--node", node.name)


def test_a_node_with_a_divided_gpu_is_planned_for_by_its_smallest_instance(
    desk: Desk, node: SmallNode, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", vocab_size=32)
    parts = [
        MigInstance(place=f"0/{n}/0", uuid=f"MIG-{n}", profile=f"{n}g.{size}gb", memory_total=size * 10**9)
        for n, size in ((1, 10), (2, 20))
    ]
    divided = Gpu(index=0, uuid="GPU-0", name="H100", memory_total=80 * 10**9, mig=True, instances=tuple(parts))
    node.gpus = (divided, Gpu(index=1, uuid="GPU-1", name="H100", memory_total=80 * 10**9))
    reported(desk, node)
    assert desk.json("plan", "vram", base, "--node", node.name)["total"] == 10 * 10**9
    node.gpus = (divided.model_copy(update={"instances": None}),)
    reported(desk, node)
    desk.refused(1, "not_reported", "plan", "vram", base, "--node", node.name)


def test_a_node_whose_gpu_computes_in_the_memory_of_the_host_is_planned_for_by_that(
    desk: Desk, node: SmallNode, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", vocab_size=32)
    node.gpus = (Gpu(index=0, uuid="GPU-8", name="GB10"),)
    node.host = Host(cpu_percent=1, memory_used=0, memory_total=128 * 10**9, load1=0)
    reported(desk, node)
    assert desk.json("plan", "vram", base, "--node", node.name)["total"] == 128 * 10**9


def test_a_node_is_shown_with_its_links_and_its_mig_instances(desk: Desk, node: SmallNode) -> None:
    part = MigInstance(place="1/7/0", uuid="MIG-7", profile="3g.40gb", memory_used=3 << 30, memory_total=40 << 30)
    links = NvLink(links=12, up=11, down=1, errors={"CRC": 3})
    node.gpus = (
        Gpu(index=0, uuid="GPU-5", name="H100", nvlink=links, mig=False),
        Gpu(index=1, uuid="GPU-6", name="H100", mig=True, instances=(part,)),
    )
    reported(desk, node)
    shown = desk.run("node", "show", node.name).stdout
    assert "GPU 0: NVLink 11 of 12 up, errors in 5 min: CRC 3; MIG off" in shown
    assert "GPU 1: NVLink not known; MIG 1/7/0 3g.40gb  3.0/40 GB  MIG-7" in shown
