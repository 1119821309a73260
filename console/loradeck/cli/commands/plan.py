"""Commands that calculate what fits in memory, before anything is bought or started."""

import asyncio
import math
from pathlib import Path
from typing import Any

import click

from loradeck.artifacts.adapters import base_modules, embedding_modules, read_base_config
from loradeck.artifacts.manifests import base_files
from loradeck.artifacts.tensors import ITEM_BYTES, read_header
from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.session import Noun, Session, hub_command
from loradeck.rules.serving import vram

ITEMS = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a value, by data type."""

MEMORY_UNIT = 1e9

plan = Noun("plan")


@plan.command("vram")
@click.argument("base", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--memory-gb", type=click.FloatRange(min=0), help="Memory of one device, in GB of 10^9 bytes.")
@click.option("--node", "node_name", help="Take the memory of this node's smallest GPU, or of its host if it has none.")
@click.option(
    "--engine",
    type=click.Choice(["vllm", "embedded"]),
    default="vllm",
    show_default=True,
    help="Engine that serves them.",
)
@click.option(
    "--module",
    "modules",
    multiple=True,
    help="Target module; may be repeated. By default all, as for a vLLM without --lora-target-modules.",
)
@click.option(
    "--dtype", type=click.Choice(list(ITEMS)), default="bfloat16", show_default=True, help="Type of base and cache."
)
@click.option("--tensor-parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Devices it spans.")
@click.option(
    "--cache-tokens",
    type=click.IntRange(min=0),
    default=32768,
    show_default=True,
    help="Tokens of all requests at once, which the key-value cache must hold.",
)
@hub_command
async def vram_(
    s: Session,
    /,
    base: Path,
    memory_gb: float | None,
    node_name: str | None,
    engine: str,
    modules: tuple[str, ...],
    dtype: str,
    tensor_parallel: int,
    cache_tokens: int,
) -> None:
    """Calculate how many adapters of each rank fit on an engine of the base in DIR.

    vLLM reserves memory for max_loras adapters of max_lora_rank at its start, whatever the adapters' own ranks, and
    takes nine tenths of a GPU in all. The figures leave out the memory of a forward pass itself: leave some room.
    """
    if (memory_gb is None) == (node_name is None):
        raise misused("how much memory is there?", where=str(base), fix="give --memory-gb or --node, one of them")
    total = memory_gb * MEMORY_UNIT if memory_gb is not None else await _memory_of(s, str(node_name))
    model = await asyncio.to_thread(_model, base, ITEMS[dtype])
    shapes = vram.targeted(model["shapes"], modules)
    whole = {} if modules else model["whole"]
    if not shapes:
        raise misused("no layer of the base has this name", where=" ".join(modules), fix="for example --module q_proj")
    cache = cache_tokens * model["token"] / min(tensor_parallel, model["keys"])
    share = vram.UTILISATION if engine == "vllm" else 1.0
    room = vram.Room(total=total, weights=model["weights"] / tensor_parallel, cache=cache, share=share)
    rows = []
    for rank in vram.RANKS:
        if engine == "vllm":
            one = vram.vllm_bytes(
                shapes,
                ITEMS[dtype],
                max_loras=1,
                max_rank=rank,
                parallel=tensor_parallel,
                whole=whole,
                head=model["head"],
            )
        else:
            one = vram.embedded_bytes(shapes, ITEMS[dtype], [rank])
        rows.append({"rank": rank, "bytes": one, "fit": vram.slots(room, one)})
    figures = {"total": room.total, "weights": room.weights, "cache": room.cache, "left": room.for_adapters}
    s.out.json({**figures, "engine": engine, "layers": len(shapes), "ranks": rows})
    s.out.heading(
        f"{engine}: {room.total / 1e9:.1f} GB, base {room.weights / 1e9:.2f}, cache {room.cache / 1e9:.2f}, "
        f"left for adapters {room.for_adapters / 1e9:.2f} GB"
    )
    s.out.table(
        ("RANK", "ONE ADAPTER MB", "FIT"),
        [(row["rank"], f"{row['bytes'] / 1e6:,.1f}", f"{row['fit']:,}") for row in rows],
        empty="no ranks",
    )


async def _memory_of(s: Session, name: str) -> float:
    """Bytes of a node's smallest GPU or MIG instance, else of its host, whose memory is a GPU's that reports none.

    Raises: CliError: unknown, or not reported.
    """
    found = next((row for row in await s.api.nodes() if row.node == name), None)
    if found is None:
        raise refused(f"there is no node {name!r}", fix="loradeck node ls", code="unknown_node")
    parts = [part for gpu in found.gpus for part in (gpu.instances or () if gpu.mig else (gpu,))]
    gpus = [part.memory_total for part in parts if part.memory_total is not None]
    if not gpus and (found.host is None or any(gpu.mig for gpu in found.gpus)):
        raise refused(f"{name} has not reported its memory", fix="give --memory-gb", code="not_reported")
    return float(min(gpus) if gpus or found.host is None else found.host.memory_total)


def _model(base: Path, item: int) -> dict[str, Any]:
    """A base's layers by shape, its weights in bytes, a token's bytes in the cache, and its key heads and their size.

    Raises:
        CliError: the model type is not known here.
        BadArtifact: the folder holds no base.
    """
    paths = base_files(base)
    config = read_base_config(base)
    shapes = base_modules(config)
    if shapes is None:
        raise refused(
            f"layers of a {config.get('model_type')!r} are not known here",
            where=str(base),
            fix="plan for a base that can be trained and served here",
            code="unsupported_base",
        )
    tensors = [t for path in paths if path.suffix == ".safetensors" for t in read_header(path).values()]
    heads = int(config["num_attention_heads"])
    head = int(config.get("head_dim") or config["hidden_size"] // heads)
    keys = int(config.get("num_key_value_heads") or heads)
    # A cast engine holds floats in its own type; whatever is stored smaller (quantized) stays as it is.
    weights = sum(math.prod(t.shape) * min(item, ITEM_BYTES[t.dtype]) for t in tensors)
    token = vram.token_bytes(int(config["num_hidden_layers"]), keys, head, item)
    whole = embedding_modules(config)
    return {"shapes": shapes, "whole": whole, "weights": weights, "token": token, "keys": keys, "head": head}
