"""Training in fp32, bf16 and nf4, and with activations computed again, beside trl's own trainer on the same rows.

Each runs in a process of its own: tokens a second without the first step, and the most memory above the imports. trl's
SFTTrainer (peft and accelerate under it) trains the same rows in its own order, with its own padding and schedule. Then
trl stops half-way and resumes, as the kills of the part before do with ours.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.bench.executors import child, cores, version
from tests.bench.rows import Row

from base_model import ensure_base
from loradeck.artifacts import base_manifest
from loradeck.schemas.executor import ExecutorSpec
from recipes.measure import HERE, digest_of_rows, recipe

STEPS = 6
MODES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "nf4": {"precision": "nf4"},
    "fp32, checkpointed": {"gradient_checkpointing": True},
}


def measure(*, steps: int = STEPS, modes: tuple[str, ...] = tuple(MODES)) -> list[Row]:
    """About four minutes on two free cores."""
    rows: list[Row] = []
    base = ensure_base()
    digest, tickets = base_manifest(base, "-", "-").digest, HERE / "tickets.jsonl"
    libraries = f"trl {version('trl')}, peft {version('peft')}, accelerate {version('accelerate')}"
    with tempfile.TemporaryDirectory(prefix="ld") as name:
        root = Path(name)
        for number, mode in enumerate(modes):
            folder = root / str(number)
            folder.mkdir()
            train = recipe("supervised", digest)
            spec = ExecutorSpec(
                run="bench",
                attempt=1,
                spec=type(train).model_validate(train.model_dump() | {"steps": steps, **MODES[mode]}),
                base=str(base),
                base_digest=digest,
                inputs={digest_of_rows("tickets"): str(tickets)},
                out=str(folder / "out"),
                events=str(folder / "events.jsonl"),
                error=str(folder / "error.txt"),
                threads=cores(),
            )
            (folder / "spec.json").write_text(spec.model_dump_json())
            ours = child("train", folder, {"spec": str(folder / "spec.json"), "threads": cores()})
            task = {"base": str(base), "rows": str(tickets), "out": str(folder / "trl"), "steps": steps}
            peer = child("trl", folder, {**task, **MODES[mode], "threads": cores()})
            what, whose, n = f"train executor, SmolLM2-135M, {mode}", f"peer: trl's SFTTrainer, {mode}", steps - 1
            speed, memory = (
                "all linear, rank 8, batch 4; without the first step",
                "above the imports",
            )
            rows += [
                Row(f"{what}", ours["tokens_per_s"], "tokens/s", n, how=f"{cores()} threads; {speed}"),
                Row(f"{whose}", peer["tokens_per_s"], "tokens/s", n, how=f"{libraries}; tokens without padding"),
                Row(
                    f"{what}: against that",
                    ours["tokens_per_s"] / peer["tokens_per_s"],
                    "x",
                    n,
                    how="the same run",
                    reference="peer",
                ),
                Row(f"{what}: peak memory", ours["peak_mb"], "MB", 1, how=memory),
                Row(f"{whose}: peak memory", peer["peak_mb"], "MB", 1, how=memory),
            ]
        task = {"base": str(base), "rows": str(tickets), "out": str(root / "again"), "steps": steps, "threads": cores()}
        child("trl", root, {**task, "stop_at": steps // 2})
        resumed = child("trl", root, {**task, "resume": True})
        straight = root / "0" / "trl" / "adapter_model.safetensors"
        pairs = zip(straight.read_bytes(), Path(resumed["adapter"]).read_bytes(), strict=True)
        differing = sum(one != other for one, other in pairs)
        how = f"{libraries}; stopped after {steps // 2} of {steps} steps; ours: the part on kills"
        rows.append(
            Row("peer: bytes of trl's resumed adapter unlike its straight one's", differing, "unlike", 1, how=how)
        )
    return rows
