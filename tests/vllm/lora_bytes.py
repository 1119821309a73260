"""Prints the bytes that vLLM allocates for adapters on each of its workers. Run by vLLM's own Python.

python lora_bytes.py BASE TENSOR_PARALLEL MAX_LORAS MAX_LORA_RANK [faked]

With `faked`, BASE may be several (one:two) and TENSOR_PARALLEL a list (1,2,4,8). For each of both vLLM's own model and
layers for adapters are built as on the first of so many workers: without values (on torch's `meta` device), weights and
other workers. So more workers can be asked about than a machine has, and a base need be no more than a config.json.
"""

import json
import os
import sys
import tempfile
from typing import Any


def allocated(worker: Any) -> int:
    """The bytes of every tensor that a layer has stacked for adapters, each counted once."""
    storages = {}
    for layer in worker.model_runner.model.modules():
        for name in ("lora_a_stacked", "lora_b_stacked"):
            found = getattr(layer, name, ())
            for tensor in found if isinstance(found, tuple | list) else (found,):
                storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def live(settings: dict[str, Any], parallel: int) -> list[int]:
    """Starts vLLM with its workers, and asks each."""
    from vllm import LLM

    engine = LLM(**settings, tensor_parallel_size=parallel)
    found: list[int] = engine.collective_rpc(allocated)
    return found


def faked(settings: dict[str, Any], bases: list[str], parallels: list[int]) -> list[list[int]]:
    """Builds, of each base, the model of the first of so many workers, for each number of them."""
    from types import SimpleNamespace

    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.model_manager import create_lora_manager
    from vllm.model_executor.model_loader.utils import initialize_model

    found, device = [], torch.device("meta")
    with tempfile.TemporaryDirectory() as folder:
        for base in bases:
            config = EngineArgs(**settings, model=base, skip_tokenizer_init=True).create_engine_config()
            with set_current_vllm_config(config):
                if not found:
                    parallel_state.init_distributed_environment(1, 0, f"file://{folder}/store", 0, "gloo")
                    parallel_state.ensure_model_parallel_initialized(1, 1)
                sizes = []
                for parallel in parallels:
                    config.compilation_config.static_forward_context.clear()  # of the model before
                    parallel_state.get_tp_group().world_size = parallel
                    with device:
                        model = initialize_model(config)
                        lora, words = config.lora_config, config.model_config.get_vocab_size()
                        create_lora_manager(model, 4, 64, words, lora, config, device)
                    sizes.append(allocated(SimpleNamespace(model_runner=SimpleNamespace(model=model))))
                parallel_state.get_tp_group().world_size = 1
            found.append(sizes)
    return found


def main(base: str, parallel: str, max_loras: str, max_rank: str, way: str = "live") -> None:
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # a function is sent to the workers
    settings = {
        "dtype": "bfloat16",
        "enforce_eager": True,
        "enable_lora": True,
        "max_loras": int(max_loras),
        "max_lora_rank": int(max_rank),
        "max_model_len": 64,
    }
    found: list[Any]
    if way == "faked":
        found = faked(settings, base.split(os.pathsep), [int(one) for one in parallel.split(",")])
    else:
        found = live({**settings, "model": base}, int(parallel))
    print("allocated:", json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
