"""Merging of a LoRA adapter into the files of its base, tensor by tensor.

Every shard is read once and written once, front to back: a weight that the adapter changes is widened to fp32, has its
pair's product added (under DoRA each row then gets its length), and is cast back once; every other byte is copied. So
memory holds a few weights and never a shard, and the sums are those of peft's own merge in fp32. Both files are hashed
as they pass: hashing and writing take longer than most sums and release the interpreter lock, so each has a thread of
its own. Of a quantized base every weight is dequantized on the way, and written as BF16.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.adapters import WEIGHTS, Pair, check_modules, lora_pairs
from loradeck.artifacts.lora_config import CONFIG, read_lora
from loradeck.artifacts.manifests import base_files
from loradeck.artifacts.tensors import Tensor, read_header
from loradeck.schemas.manifest import FileEntry
from loradeck_agent.executors.merging.quantized_base import DTYPES, INDEX, StoredBase, unsupported_base

Between = Callable[[int, int], None]
"""Called after each weight that is not copied with (done, total). May raise to end the merge."""


@dataclass(frozen=True)
class Merged:
    """Entries of the base's files as read, and of the merged files as written; `tensors` counts the merged weights."""

    base: tuple[FileEntry, ...]
    files: tuple[FileEntry, ...]
    tensors: int
    dequantized: str  # how the base's weights were quantized; empty: they were not


@dataclass(frozen=True)
class AdapterOfBase:
    """Where the pairs of an adapter lie in its file, by the base's name of the weight they change."""

    path: Path
    pairs: Mapping[str, Pair]
    alpha: float


def merge_weights(base: Path, adapter: Path, out: Path, between: Between = lambda done, of: None) -> Merged:
    """Merges the adapter in `adapter` into the base in `base`, and writes the result durably to the empty folder `out`.

    The caller must compare `Merged.base` with the base that the adapter was trained on.

    Raises:
        BadArtifact: `unsupported_adapter`: it is neither LoRA nor DoRA; `wrong_base`: its tensors are not exactly those
            of the base's target modules; `unsupported_base`: weights of a type that cannot be added to, or quantized in
            a way that is not known here; `bad_values`: a merged weight is not finite; or the code of a damaged file.
        OSError: the disk refused.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # hundreds of small sums: on a busy node, threads that wait for each other take far longer
    try:
        return _merge(base, adapter, out, between)
    finally:
        torch.set_num_threads(threads)


def _merge(base: Path, adapter: Path, out: Path, between: Between) -> Merged:
    found = base_files(base)
    shards = [path for path in found if path.suffix == ".safetensors"]
    headers = {path: read_header(path) for path in shards}
    _check_shards(base, shards, headers)
    stored = StoredBase(base, headers)
    lora = _adapter(adapter, stored.tensors)
    changed = lora.pairs.keys() | stored.parts.keys()
    read, written, done = [], [], 0
    for path in found:
        ordered = sorted(headers.get(path, {}).items(), key=lambda item: item[1].begin)
        size = path.stat().st_size
        beginning = stored.beginning(path, [name for name, _ in ordered])
        with HashedCopy(path, out / path.name) as copy:
            copy.copy(ordered[0][1].begin if ordered else size, keep=beginning is None)
            copy.put(memoryview(beginning or b""))
            for name, tensor in ordered:
                if name not in changed:
                    copy.copy(tensor.end - tensor.begin, keep=name in stored.tensors)
                    continue
                copy.put(_sum(name, copy.take(tensor.end - tensor.begin), stored, lora))
                done += 1
                between(done, len(changed))
            before, after = copy.finish()
        read.append(before)
        written.append(after)
    return Merged(tuple(read), tuple(written), len(lora.pairs), stored.form)


def _sum(name: str, data: bytearray, stored: StoredBase, lora: AdapterOfBase) -> memoryview:
    """Adds a pair's product, if any, to its weight; returns the bytes. Raises: BadArtifact: `bad_values`."""
    tensor, pair = stored.tensors[name], lora.pairs.get(name)
    merged = stored.values(name, data).reshape(tensor.shape)  # `data` is being hashed: it stays as it is
    if pair is not None:
        added = read_side(lora.path, pair.b) @ read_side(lora.path, pair.a)
        added *= pair.factor
        merged = added.add_(merged)
        if pair.magnitude is not None:
            merged *= (read_side(lora.path, pair.magnitude) / torch.linalg.norm(merged, dim=1)).view(-1, 1)
    cast = merged.to(DTYPES[tensor.dtype])
    # Both ends are finite only where all is: a NaN is either end. Asking each value takes longer than all of the sum.
    if not all(map(math.isfinite, (end.item() for end in cast.aminmax()))):
        raise BadArtifact(
            "bad_values",
            "a merged weight is not a finite number",
            f"{name}, stored as {tensor.dtype}",
            "train the adapter again, at a lower learning rate",
        )
    buffer: Any = cast.reshape(-1).view(torch.uint8).numpy()  # not every numpy declares it to be a buffer
    return memoryview(buffer)


def read_side(path: Path, tensor: Tensor) -> torch.Tensor:
    """Reads a tensor of an adapter as fp32."""
    with path.open("rb") as file:
        file.seek(tensor.begin)
        data = bytearray(file.read(tensor.end - tensor.begin))
    return torch.frombuffer(data, dtype=DTYPES[tensor.dtype]).reshape(tensor.shape).float()


def adapter_of_base(base: Path, adapter: Path) -> AdapterOfBase:
    """Reads where the pairs of an adapter lie, after checking that they are exactly those of the base's target modules.

    Raises: BadArtifact: as of `merge_weights`.
    """
    shards = [path for path in base_files(base) if path.suffix == ".safetensors"]
    return _adapter(adapter, {name: tensor for path in shards for name, tensor in read_header(path).items()})


def _adapter(folder: Path, weights: Mapping[str, Tensor]) -> AdapterOfBase:
    """Reads an adapter and checks that its tensors are exactly a pair for every target module of the base.

    Raises: BadArtifact: `unsupported_adapter`, `wrong_base` or `unsupported_base`.
    """
    lora = read_lora(folder / CONFIG)
    pairs = lora_pairs(read_header(folder / WEIGHTS), lora)
    matrices = {name: tensor for name, tensor in weights.items() if len(tensor.shape) == 2 and name.endswith(".weight")}
    check_modules(pairs, lora, {name.removesuffix(".weight"): tensor.shape for name, tensor in matrices.items()})
    by_weight = {f"{module}.weight": pair for module, pair in pairs.items()}
    if odd := sorted(name for name in by_weight if matrices[name].dtype not in DTYPES):
        raise unsupported_base(f"{odd[0]} is stored as {matrices[odd[0]].dtype}, not as F32, F16 or BF16")
    return AdapterOfBase(folder / WEIGHTS, by_weight, lora.lora_alpha)


def _check_shards(base: Path, shards: list[Path], headers: Mapping[Path, Mapping[str, Tensor]]) -> None:
    """Checks that all weight files belong to one model: an engine might serve a second, unmerged copy.

    Raises: BadArtifact: `unsupported_base`.
    """
    index = base / INDEX
    if not index.exists():
        if len(shards) > 1:
            raise unsupported_base(f"{len(shards)} weight files, and no {INDEX} that says what belongs together")
        return
    document: Any = json.loads(index.read_bytes())
    listed = document.get("weight_map") if isinstance(document, dict) else None
    there = {name: path.name for path, header in headers.items() for name in header}
    if listed != there or len(there) != sum(map(len, headers.values())):
        raise unsupported_base(f"{INDEX} does not list exactly the tensors of its weight files")


CHUNK = 4 << 20


class HashedCopy:
    """Reads `source` front to back and writes the bytes it is given to the new file `target`, hashing both.

    Reading is hashed, and writing done and hashed, on threads that lag at most one piece behind the caller, so memory
    holds four pieces at most. A piece must not be changed after `take` returned it or `put` received it.

    Raises: OSError: the disk refused a write; the error may belong to an earlier piece.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._name = source.name
        self._source = source.open("rb", buffering=0)
        self._target = target.open("xb", buffering=0)
        self._before, self._after = hashlib.sha256(), hashlib.sha256()
        self._taken, self._put = _Lagging(), _Lagging()

    def __enter__(self) -> HashedCopy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._taken.close()
        self._put.close()
        self._source.close()
        self._target.close()

    def take(self, size: int) -> bytearray:
        """Reads the source's next `size` bytes. Raises: BadArtifact: `truncated_safetensors`: it ends before."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._source.readinto(view)
            if not count:
                raise BadArtifact("truncated_safetensors", "a file of the base became shorter while it was read")
            view = view[count:]
        self._taken.do(lambda: self._before.update(data))
        return data

    def put(self, data: bytearray | memoryview) -> None:
        """Appends a piece to the target."""
        self._put.do(lambda: self._write(memoryview(data)))

    def copy(self, size: int, *, keep: bool = True) -> None:
        """Copies the next `size` bytes of the source to the target unchanged, or without `keep` passes over them."""
        while size:
            data = self.take(min(CHUNK, size))
            if keep:
                self.put(data)
            size -= len(data)

    def finish(self) -> tuple[FileEntry, FileEntry]:
        """Makes the target durable and returns the entries of source and target, both under the source's name."""
        self._put.wait()
        os.fsync(self._target.fileno())
        self._taken.wait()
        return (
            FileEntry(path=self._name, size=self._source.tell(), sha256=self._before.hexdigest()),
            FileEntry(path=self._name, size=self._target.tell(), sha256=self._after.hexdigest()),
        )

    def _write(self, data: memoryview) -> None:
        left = data
        while left:
            left = left[self._target.write(left) :]
        self._after.update(data)


class _Lagging:
    """Runs pieces of work in order on a thread of its own, at most one piece behind the caller."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._piece: Future[None] | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Submits a piece of work after waiting for the one before; raises the error of the one before."""
        self.wait()
        self._piece = self._thread.submit(work)

    def wait(self) -> None:
        """Waits until no piece is left; raises the error of the last one."""
        piece, self._piece = self._piece, None
        if piece is not None:
            piece.result()

    def close(self) -> None:
        """Ends the thread after the piece in hand."""
        self._thread.shutdown()
