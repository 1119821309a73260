"""Loading and unloading: vLLM's statuses, and refusing every adapter that would not do what it says.

vLLM takes some of them. That is shown here for each, and that our own check before a load takes none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.contract.engine.running import EMBEDDED_ONLY, SLOTS, Engine, Load, tokens_of
from tests.fakes.handmade_adapters import manifest_of

from loradeck.artifacts import BadArtifact, verify_adapter

PROMPT = "Where is my parcel?"


def test_a_loaded_adapter_is_listed_with_its_path_and_answers_differently(
    engine: Engine, load: Load, adapters: list[Path]
) -> None:
    before = tokens_of(engine.chat("base", PROMPT))
    assert load("acme-1", adapters[0]).status_code == 200
    listed = {m["id"]: m for m in engine.http.get("/v1/models").json()["data"]}
    assert listed["acme-1"]["root"] == str(adapters[0])
    assert listed["acme-1"]["parent"] == "base"
    assert listed["base"]["parent"] is None
    assert tokens_of(engine.chat("acme-1", PROMPT)) != before
    assert tokens_of(engine.chat("base", PROMPT)) == before


@pytest.mark.parametrize("name", ["base", "", None])
def test_an_empty_name_or_the_bases_is_refused(
    engine: Engine, load: Load, adapters: list[Path], name: str | None
) -> None:
    reply = engine.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(adapters[0])})
    assert reply.status_code == 400
    assert engine.names() == ["base"]


def test_a_name_in_use_is_refused_and_goes_on_serving_what_it_served(
    engine: Engine, load: Load, adapters: list[Path]
) -> None:
    load("acme-1", adapters[0])
    before = tokens_of(engine.chat("acme-1", PROMPT))
    assert load("acme-1", adapters[1]).status_code == 400
    assert load("acme-1", adapters[0]).status_code == 400
    assert tokens_of(engine.chat("acme-1", PROMPT)) == before


def test_a_folder_that_is_absent_is_404(engine: Engine, load: Load, tmp_path: Path) -> None:
    assert load("acme-1", tmp_path / "nowhere").status_code == 404
    assert engine.names() == ["base"]


def test_unloading_is_200_once_then_404_and_the_name_answers_no_more(
    engine: Engine, load: Load, adapters: list[Path]
) -> None:
    load("acme-1", adapters[0])
    assert engine.http.post("/v1/unload_lora_adapter", json={"lora_name": "acme-1"}).status_code == 200
    assert engine.http.post("/v1/unload_lora_adapter", json={"lora_name": "acme-1"}).status_code == 404
    body = {"model": "acme-1", "messages": [{"role": "user", "content": PROMPT}]}
    assert engine.http.post("/v1/chat/completions", json=body).status_code == 404


def test_as_many_adapters_as_slots_are_held_and_each_answers_as_its_files_say(
    engine: Engine, load: Load, adapters: list[Path]
) -> None:
    names = [f"acme-{i}" for i in range(SLOTS)]
    assert [load(name, adapters[i % 3]).status_code for i, name in enumerate(names)] == [200] * SLOTS
    assert engine.names() == ["base", *names]
    answers = [tokens_of(engine.chat(name, PROMPT)) for name in ("base", *names)]
    assert len({tuple(answer) for answer in answers}) == 4
    assert answers[1] == answers[4]  # the same files under another name


@EMBEDDED_ONLY  # vLLM takes more and drops what was asked least: tests/vllm/test_hazards.py
def test_one_adapter_more_than_slots_is_refused_and_the_others_stay(
    engine: Engine, load: Load, adapters: list[Path]
) -> None:
    names = [f"acme-{i}" for i in range(SLOTS)]
    assert [load(name, adapters[0]).status_code for name in names] == [200] * SLOTS
    assert load("acme-more", adapters[1]).status_code == 400
    assert engine.names() == ["base", *names]
    engine.http.post("/v1/unload_lora_adapter", json={"lora_name": names[0]})
    assert load("acme-more", adapters[1]).status_code == 200


def _truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _change_tensors(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return apply


def _rename_all(tensors: dict[str, Any]) -> None:
    for key in list(tensors):
        tensors["other." + key] = tensors.pop(key)


def _drop_one(tensors: dict[str, Any]) -> None:
    del tensors[sorted(tensors)[0]]


def _narrow_one(tensors: dict[str, Any]) -> None:
    key = sorted(tensors)[0]
    tensors[key] = tensors[key][:, :-1].contiguous()


def _make_nan(tensors: dict[str, Any]) -> None:
    tensors[sorted(tensors)[0]][0, 0] = float("nan")


def _change_config(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


def _only_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _no_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


FAULTS: dict[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "keys that match nothing": _change_tensors(_rename_all),
    "a missing key": _change_tensors(_drop_one),
    "a wrong shape": _change_tensors(_narrow_one),
    "NaN": _change_tensors(_make_nan),
    "a rank that is not the tensors'": _change_config(r=8),
    "DoRA": _change_config(use_dora=True),
    "a rank pattern": _change_config(rank_pattern={"q_proj": 2}),
    "targets that match nothing": _change_config(target_modules=["query_key_value"]),
    "another method": _change_config(peft_type="IA3"),
    "pickled weights": _only_pickle,
    "no configuration": _no_config,
}


TAKEN = {
    "vllm": {
        "keys that match nothing",
        "a wrong shape",
        "NaN",
        "a rank that is not the tensors'",
        "a rank pattern",
        "targets that match nothing",
        "another method",
    }
}
"""Engine -> faults that it answers 200 and goes on to serve."""


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_faulty_adapter_is_500_and_changes_nothing(
    engine: Engine, load: Load, adapters: list[Path], tmp_path: Path, fault: str
) -> None:
    load("good", adapters[0])
    before = tokens_of(engine.chat("good", PROMPT)), tokens_of(engine.chat("base", PROMPT))
    folder = tmp_path / "faulty"
    shutil.copytree(adapters[1], folder)
    FAULTS[fault](folder)
    reply = load("faulty", folder)
    if fault in TAKEN.get(engine.kind, ()):
        assert reply.status_code == 200
        assert engine.names() == ["base", "good", "faulty"]
    else:
        absent = engine.kind == "vllm" and fault == "no configuration"
        assert reply.status_code == (404 if absent else 500)
        assert reply.json()["error"]["message"]
        assert engine.names() == ["base", "good"]
    assert (tokens_of(engine.chat("good", PROMPT)), tokens_of(engine.chat("base", PROMPT))) == before


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_no_faulty_adapter_passes_our_own_check_before_a_load(
    tiny_base: Path, adapters: list[Path], tmp_path: Path, fault: str
) -> None:
    """Even where its manifest lists the faulty files as they are: nobody changed them on the way."""
    folder = tmp_path / "faulty"
    shutil.copytree(adapters[1], folder)
    verify_adapter(folder, manifest_of(folder), tiny_base)
    FAULTS[fault](folder)
    with pytest.raises(BadArtifact):
        verify_adapter(folder, manifest_of(folder), tiny_base)


def test_an_adapter_of_a_base_with_other_shapes_is_500(engine: Engine, load: Load, tmp_path: Path) -> None:
    import torch

    keys = {
        f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{m}.weight": torch.ones(shape)
        for i in range(4)
        for m, shape in (("A", (4, 64)), ("B", (64, 4)))
    }
    save_file(keys, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert load("other", tmp_path).status_code == 500


def test_the_files_of_a_loaded_adapter_may_go_or_change_without_touching_its_answers(
    engine: Engine, load: Load, adapters: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(adapters[0], folder)
    load("acme-1", folder)
    before = tokens_of(engine.chat("acme-1", PROMPT))
    shutil.copy(adapters[1] / "adapter_model.safetensors", folder)
    assert tokens_of(engine.chat("acme-1", PROMPT)) == before
    shutil.rmtree(folder)
    assert tokens_of(engine.chat("acme-1", PROMPT)) == before
