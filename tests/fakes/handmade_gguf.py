"""Small GGUF files of whole weights, as gguf's own writer makes them, without a model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

NUMBERS = {"f32": (0, 0), "f16": (1, 1), "q4_0": (2, 2), "q8_0": (7, 8), "bf16": (32, 30)}
"""Type -> its number as a file's and as a tensor's."""


def write_gguf(path: Path, weights: str, type_: str = "q8_0", *, stored: str = "", kind: str = "model") -> Path:
    """A file that says that it was written from `weights`; its matrix is stored as `stored`, if that is given."""
    number, tensor = NUMBERS[type_][0], gguf.GGMLQuantizationType(NUMBERS[stored or type_][1])
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(kind)
    writer.add_file_type(number)
    writer.add_string("loradeck.weights", weights)
    writer.add_token_list(["a", "bé", "c"])
    writer.add_token_types([1, 1, 3])
    writer.add_add_bos_token(False)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("blk.0.ffn_up.weight", quantize(np.ones((3, 64), np.float32), tensor), raw_dtype=tensor)
    writer.add_tensor("output_norm.weight", np.ones(7, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
