"""What is refused before an engine sees it. Each refusal has its code, names what is wrong, and changes nothing."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.handmade_adapters import (
    BASE_CONFIG,
    TARGETS,
    config,
    framed,
    manifest_of,
    safetensors,
    shapes,
    write_adapter,
    write_base,
)

from loradeck.artifacts import BadArtifact, verify_adapter
from loradeck.schemas.manifest import FileEntry

WEIGHTS = "adapter_model.safetensors"
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Code and detail of what is raised."""
    with pytest.raises(BadArtifact) as caught:
        call()
    assert caught.value.title
    return caught.value.code, caught.value.detail


def refused(folder: Path, **adapter: Any) -> tuple[str, str]:
    """What `verify_adapter` says of an adapter written like this, whose manifest lists its files rightly."""
    manifest = write_adapter(folder, **adapter)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = refusal(lambda: verify_adapter(folder, manifest))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    return result


def test_a_whole_adapter_passes_with_and_without_its_base(tmp_path: Path) -> None:
    manifest = write_adapter(tmp_path / "a")
    verify_adapter(tmp_path / "a", manifest)
    verify_adapter(tmp_path / "a", manifest, write_base(tmp_path / "base"))


def test_an_adapter_on_some_modules_passes(tmp_path: Path) -> None:
    some = {key: shape for key, shape in shapes().items() if "q_proj" in key or "v_proj" in key}
    folder = tmp_path / "a"
    write_adapter(folder, weights=safetensors(some, "BF16", 2), settings=config(target_modules=["v_proj", "q_proj"]))
    manifest = manifest_of(folder, target_modules=("q_proj", "v_proj"))
    verify_adapter(folder, manifest, write_base(tmp_path / "base"))


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "scheduler.PT", "sub/x.pkl", "modeling.py"])
def test_a_pickle_in_an_adapter_is_refused_listed_or_not(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    manifest = write_adapter(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps({"a": 1}))
    for listed in (manifest, manifest_of(folder)):
        assert refusal(lambda listed=listed: verify_adapter(folder, listed)) == ("pickle_in_adapter", name)


@pytest.mark.parametrize("start", [pickle.dumps([1], protocol=4), b"PK\x03\x04" + b"\0" * 60])
def test_a_pickle_under_a_safetensors_name_is_refused(start: bytes, tmp_path: Path) -> None:
    assert refused(tmp_path / "a", weights=start) == ("pickle_in_adapter", WEIGHTS)


def test_weights_whose_header_has_a_length_that_begins_as_a_pickle_are_none(tmp_path: Path) -> None:
    whole = (write_adapter(tmp_path / "a"), (tmp_path / "a" / WEIGHTS).read_bytes())[1]
    size = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + size].ljust(0x0280 + 0x10000 * -(-(size - 0x0280) // 0x10000))
    weights = len(header).to_bytes(8, "little") + header + whole[8 + size :]
    assert weights.startswith(b"\x80\x02")
    verify_adapter(tmp_path / "b", write_adapter(tmp_path / "b", weights=weights))


def test_a_pickle_that_only_the_manifest_lists_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    manifest = write_adapter(folder)
    files = (*manifest.files, FileEntry(path="adapter_model.bin", size=1, sha256="d" * 64))
    code, _ = refusal(lambda: verify_adapter(folder, manifest.model_copy(update={"files": files})))
    assert code == "pickle_in_adapter"


@pytest.mark.parametrize("kept", [0, 5, 8, 40, -1, -1000])
def test_truncated_safetensors_are_refused_even_where_the_manifest_agrees(kept: int, tmp_path: Path) -> None:
    whole = safetensors(shapes())
    code, detail = refused(tmp_path / "a", weights=whole[:kept])
    assert code == "truncated_safetensors"
    assert f"{WEIGHTS}: {len(whole[:kept])} bytes" in detail


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (safetensors(shapes()) + b"\0", "1 bytes belong to no tensor"),
        (framed(b"[1]", b""), "not a JSON object"),
        (framed(b"{" * 9, b""), "not JSON"),
        (framed(b"[" * 200_000, b""), "not JSON"),
        (framed(b'{"a":' + b"[" * 200_000, b""), "not JSON"),
        (framed(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', b"\0" * 4), "contains a name twice"),
        (framed({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4), "unreadable"),
        (framed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4), "cannot have the bytes"),
        (framed({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}, b"\0" * 4), "cannot have the bytes"),
        (framed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\0" * 8), "begins at byte 4"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "header would be"),
    ],
)
def test_malformed_safetensors_are_refused(weights: bytes, said: str, tmp_path: Path) -> None:
    code, detail = refused(tmp_path / "a", weights=weights)
    assert code == "bad_safetensors"
    assert said in detail


def test_a_changed_byte_is_a_manifest_mismatch(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    manifest = write_adapter(folder)
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    code, detail = refusal(lambda: verify_adapter(folder, manifest))
    assert code == "manifest_mismatch"
    assert detail.startswith(f"{WEIGHTS}: digest (sha256 ")


def test_a_missing_and_an_extra_file_are_both_named(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    manifest = write_adapter(folder)
    (folder / WEIGHTS).unlink()
    (folder / "notes.txt").write_text("x")
    assert refusal(lambda: verify_adapter(folder, manifest)) == (
        "manifest_mismatch",
        f"{WEIGHTS}: missing; notes.txt: extra",
    )


def test_what_may_lie_beside_is_no_extra_file(tmp_path: Path) -> None:
    manifest = write_adapter(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text("{}")
    verify_adapter(tmp_path / "a", manifest, beside={"manifest.json"})


def test_an_adapter_with_other_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_adapter(folder)
    (folder / "tokenizer.json").write_text("{}")
    code, detail = refusal(lambda: verify_adapter(folder, manifest_of(folder)))
    assert code == "unsupported_adapter"
    assert "tokenizer.json" in detail


@pytest.mark.parametrize("target", ["/etc/passwd", WEIGHTS, "nowhere"])
def test_a_link_in_an_adapter_is_refused_wherever_it_points(target: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    manifest = write_adapter(folder)
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").symlink_to(target)
    assert refusal(lambda: verify_adapter(folder, manifest)) == ("path_traversal", "adapter_config.json is a link")


def test_a_linked_folder_in_an_adapter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    manifest = write_adapter(folder)
    (folder / "sub").symlink_to(tmp_path)
    assert refusal(lambda: verify_adapter(folder, manifest)) == ("path_traversal", "sub is a link")


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "LOHA"},
        {"task_type": "SEQ_CLS"},
        {"use_bdlora": {"blocks": 2}},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"layer_replication": [[0, 1]]},
        {"target_modules": "query_(?=key)"},
        {"target_modules": None},
    ],
)
def test_what_is_no_plain_lora_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    code, detail = refused(tmp_path / "a", settings=config(**changes))
    assert code == "unsupported_adapter"
    assert next(iter(changes)) in detail


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_configuration_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_adapter(folder)
    (folder / "adapter_config.json").write_text(text)
    code, _ = refusal(lambda: verify_adapter(folder, manifest_of(folder)))
    assert code == "unsupported_adapter"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 8}, "rank 8, the manifest says 4"),
        ({"lora_alpha": 16}, "alpha 16, the manifest says 8"),
        ({"target_modules": ["q_proj"]}, "target modules ['q_proj'], the manifest says"),
    ],
)
def test_a_configuration_that_is_not_the_manifests_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    code, detail = refused(tmp_path / "a", settings=config(**changes))
    assert code == "manifest_mismatch"
    assert said in detail


def without(*keys: str) -> dict[str, tuple[int, int]]:
    return {key: shape for key, shape in shapes().items() if key not in keys}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "no tensors for the target module"),
        (without(f"{Q0}.lora_B.weight"), "layers.0.self_attn.q_proj has lora_A only"),
        (without(f"{Q0}.lora_A.weight", f"{Q0}.lora_B.weight"), "q_proj has no tensors in layer 0"),
        (shapes() | {f"{Q0}.lora_A.weight": (8, 48)}, "A [8, 48] and B [48, 4], which is not rank 4"),
        (shapes() | {f"{Q0}.lora_A.weight": (4, 40)}, "not the same shape in every layer"),
        (shapes() | {f"{Q0}.weight": (4, 4)}, "which is not a LoRA tensor"),
        (shapes() | {f"{Q0}.lora_magnitude_vector.weight": (4, 4)}, "which is not a LoRA tensor"),
        (shapes() | {"other.q_proj.lora_A.weight": (4, 48)}, "which is not a LoRA tensor"),
        (
            shapes()
            | {"base_model.model.lm_head.lora_A.weight": (4, 48), "base_model.model.lm_head.lora_B.weight": (9, 4)},
            "tensors for lm_head, which is not a target module",
        ),
        (shapes() | {f"{Q0}.lora_A.weight": (4, 6, 8)}, "not a matrix"),
    ],
)
def test_a_tensor_missing_or_too_many_is_refused(
    tensors: dict[str, tuple[int, ...]], said: str, tmp_path: Path
) -> None:
    code, detail = refused(tmp_path / "a", weights=safetensors(tensors))
    assert code == "unsupported_adapter"
    assert said in detail


def test_keys_that_match_nothing_are_refused_before_an_engine_serves_the_bare_base(tmp_path: Path) -> None:
    renamed = {key.replace("base_model.model.", "model."): shape for key, shape in shapes().items()}
    code, _ = refused(tmp_path / "a", weights=safetensors(renamed))
    assert code == "unsupported_adapter"


def test_integers_are_no_weights(tmp_path: Path) -> None:
    code, detail = refused(tmp_path / "a", weights=safetensors(shapes(), "I32", 4))
    assert code == "unsupported_adapter"
    assert "I32" in detail


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"num_hidden_layers": 3}, "the base has model.layers.2.mlp.down_proj, the adapter has no tensors for it"),
        ({"num_hidden_layers": 1}, "tensors for model.layers.1.mlp.down_proj, which the base lacks"),
        ({"hidden_size": 64}, "in the adapter, "),
        ({"intermediate_size": 128}, "mlp.down_proj maps 96 to 48 in the adapter, 128 to 48 in the base"),
        ({"num_key_value_heads": 4}, "self_attn.k_proj maps 48 to 24 in the adapter, 48 to 48 in the base"),
        ({"hidden_size": None}, "lacks a dimension"),
    ],
)
def test_an_adapter_of_another_base_is_noticed(other: dict[str, Any], said: str, tmp_path: Path) -> None:
    manifest = write_adapter(tmp_path / "a")
    base = write_base(tmp_path / "base", **other)
    code, detail = refusal(lambda: verify_adapter(tmp_path / "a", manifest, base))
    assert code == "wrong_base"
    assert said in detail


def test_a_base_of_an_unknown_kind_is_checked_by_what_is_known(tmp_path: Path) -> None:
    manifest = write_adapter(tmp_path / "a")
    verify_adapter(tmp_path / "a", manifest, write_base(tmp_path / "base", model_type="newest", hidden_size=1))


def test_a_base_without_a_readable_configuration_is_no_base(tmp_path: Path) -> None:
    manifest = write_adapter(tmp_path / "a")
    code, _ = refusal(lambda: verify_adapter(tmp_path / "a", manifest, tmp_path / "nowhere"))
    assert code == "wrong_base"


def test_an_adapter_saved_by_peft_passes_and_its_files_are_all_it_wrote(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**BASE_CONFIG, vocab_size=64))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(tmp_path / "a")
    model.config.save_pretrained(tmp_path / "base")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"adapter_config.json", WEIGHTS, "README.md"}
    verify_adapter(tmp_path / "a", manifest_of(tmp_path / "a"), tmp_path / "base")
    saved = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert saved["target_modules"] != []
