"""Prints the bytes that vLLM allocates for adapters on each of its workers. Run by vLLM's own Python.

python lora_bytes.py BASE TENSOR_PARALLEL MAX_LORAS MAX_LORA_RANK
"""

import json
import os
import sys
from typing import Any


def allocated(worker: Any) -> int:
    """The bytes of every tensor that a layer has stacked for adapters, each counted once."""
    storages = {}
    for layer in worker.model_runner.model.modules():
        for name in ("lora_a_stacked", "lora_b_stacked"):
            found = getattr(layer, name, ())
            for tensor in found if isinstance(found, tuple | list) else (found,):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def main(base: str, parallel: str, max_loras: str, max_rank: str) -> None:
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # a function is sent to the workers
    from vllm import LLM

    engine = LLM(
        model=base,
        dtype="bfloat16",
        enforce_eager=True,
        enable_lora=True,
        tensor_parallel_size=int(parallel),
        max_loras=int(max_loras),
        max_lora_rank=int(max_rank),
        max_model_len=64,
    )
    print("allocated:", json.dumps(engine.collective_rpc(allocated)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
