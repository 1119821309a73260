"""Merges into bases that bitsandbytes has quantized, on the CPU. They are here because its import takes seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.conftest import TARGETS, MakeAdapter
from tests.integration.executors.running import Bench
from tests.integration.executors.test_merge import run_merge, weights_of
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from loradeck.artifacts import base_manifest
from loradeck.schemas.attestation import MergeReport
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK, EXIT_PREEMPTED
from loradeck.schemas.manifest import BaseManifest
from loradeck_agent.executors.protocol import Run

pytestmark = pytest.mark.drawn(seconds=5)

pytest.importorskip("bitsandbytes", reason="an environment from before the extra nf4: make setup")

NESTED = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def quantized(base: Path, root: Path, dtype: torch.dtype, shard: str, **settings: Any) -> Bench:
    """The base as bitsandbytes and transformers quantize and save it."""
    config = BitsAndBytesConfig(load_in_4bit=True, **settings)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, quantization_config=config, device_map={"": torch.device("cpu")}
    )
    folder, runs = root / "quantized", root / "runs"
    model.save_pretrained(folder, max_shard_size=shard)
    for pattern in ("*token*", "chat_template*"):
        for path in base.glob(pattern):
            (folder / path.name).write_bytes(path.read_bytes())
    runs.mkdir()
    return Bench(folder, runs)


def dequantized(folder: Path) -> Any:
    """The model by transformers' and bitsandbytes' own dequantization, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map={"": torch.device("cpu")})
    return model.dequantize().float().eval()


@pytest.mark.parametrize(
    ("dtype", "shard", "settings", "targets"),
    [
        (torch.bfloat16, "1GB", NESTED, TARGETS),
        (torch.float16, "20KB", {"bnb_4bit_quant_type": "nf4"}, ("q_proj", "v_proj")),
        (torch.float32, "20KB", {"bnb_4bit_quant_type": "fp4"}, ("down_proj",)),
    ],
    ids=["nf4, nested", "nf4, in shards", "fp4, in shards"],
)
def test_an_adapter_is_merged_into_what_the_library_itself_dequantizes(
    tiny_base: Path,
    tmp_path: Path,
    make_adapter: MakeAdapter,
    dtype: torch.dtype,
    shard: str,
    settings: dict[str, Any],
    targets: tuple[str, ...],
) -> None:
    bench = quantized(tiny_base, tmp_path, dtype, shard, **settings)
    adapter = make_adapter(bench.base, tmp_path / "adapter", targets=targets)
    ended = run_merge(bench, adapter)
    assert ended.status == EXIT_OK, ended.error
    out = ended.out / "weights"
    report = MergeReport.model_validate_json((ended.out / "report.json").read_text())
    assert (report.tensors, report.dequantized) == (2 * len(targets), f"bitsandbytes {settings['bnb_4bit_quant_type']}")
    assert report.probe.kl < report.probe.kl_base / 20
    manifest = BaseManifest.model_validate_json((ended.out / "weights.manifest.json").read_text())
    assert base_manifest(out, "-", "-").digest == manifest.digest == report.merged
    config = json.loads((out / "config.json").read_text())
    assert (config["dtype"], "quantization_config" in config) == ("bfloat16", False)

    adapted = PeftModel.from_pretrained(dequantized(bench.base), adapter)
    ids = torch.tensor([list(range(3, 40))])
    with torch.no_grad():
        wanted = adapted(ids).logits
        with adapted.disable_adapter():
            alone = adapted(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()(ids).logits
    assert (wanted - merged).abs().max() < 0.05 * (wanted - alone).abs().max(), "what a cast to BF16 loses"
    expected, made, stored = adapted.merge_and_unload().state_dict(), weights_of(out), weights_of(bench.base)
    assert made.keys() == expected.keys() - {"lm_head.weight"}
    for name, tensor in made.items():
        if name.endswith("_proj.weight"):
            assert torch.equal(tensor, expected[name].to(torch.bfloat16)), name
        else:
            assert torch.equal(tensor, stored[name]), name
    assert (len(list(out.glob("*.safetensors"))) > 1) is (shard != "1GB")
    for index in out.glob("*.index.json"):
        document = json.loads(index.read_text())
        lie = {name: path.name for path in out.glob("*.safetensors") for name in load_file(path)}
        assert document["weight_map"] == lie
        assert document["metadata"]["total_size"] == sum(tensor.nbytes for tensor in made.values())
    assert run_merge(bench, adapter).last.data["merged"] == manifest.digest, "the same again"


def test_a_merge_into_a_quantized_base_that_is_stopped_midway_leaves_nothing(
    tiny_base: Path, tmp_path: Path, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = quantized(tiny_base, tmp_path, torch.bfloat16, "1GB", **NESTED)
    phase = Run.phase

    def stop(self: Run, *args: Any, **more: Any) -> None:
        phase(self, *args, **more)
        self.stopping = True

    monkeypatch.setattr(Run, "phase", stop)
    ended = run_merge(bench, make_adapter(bench.base, tmp_path / "adapter"))
    assert ended.status == EXIT_PREEMPTED
    assert not [path for path in ended.folder.iterdir() if "out" in path.name]


def test_an_adapter_that_changes_nothing_is_refused_though_the_weights_are_no_longer_the_bases(
    tiny_base: Path, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    bench = quantized(tiny_base, tmp_path, torch.bfloat16, "1GB", **NESTED)
    adapter = make_adapter(bench.base, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({k: v * ("lora_A" in k) for k, v in tensors.items()}, adapter / "adapter_model.safetensors")
    ended = run_merge(bench, adapter)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "nothing_merged")
    assert not ended.out.exists()


def test_weights_that_only_their_configuration_calls_quantized_are_not_reported_as_dequantized_but_refused(
    tiny_base: Path, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    folder, runs = tmp_path / "base", tmp_path / "runs"
    shutil.copytree(tiny_base, folder)
    runs.mkdir()
    config = json.loads((folder / "config.json").read_text())
    settings = BitsAndBytesConfig(load_in_4bit=True, **NESTED).to_dict()
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    ended = run_merge(Bench(folder, runs), make_adapter(tiny_base, tmp_path / "adapter"))
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "unsupported_base")
    assert not ended.out.exists()


@pytest.mark.parametrize("damage", ["a tensor is missing", "no JSON"])
def test_a_quantized_weight_whose_state_is_damaged_is_refused_by_its_name(
    tiny_base: Path, tmp_path: Path, make_adapter: MakeAdapter, damage: str
) -> None:
    bench = quantized(tiny_base, tmp_path, torch.bfloat16, "1GB", bnb_4bit_quant_type="nf4")
    tensors = load_file(bench.base / "model.safetensors")
    weight = "model.layers.1.mlp.up_proj.weight"
    state = f"{weight}.quant_state.bitsandbytes__nf4"
    if damage == "no JSON":
        tensors[state] = torch.tensor(list(b"{"), dtype=torch.uint8)
    else:
        del tensors[f"{weight}.absmax"]
    save_file(tensors, bench.base / "model.safetensors", metadata={"format": "pt"})
    ended = run_merge(bench, make_adapter(tiny_base, tmp_path / "adapter"))
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "unsupported_base")
    assert weight in str(ended.last)
    assert not ended.out.exists()


def test_merged_weights_are_said_to_be_bf16_under_each_name_that_readers_know_it_by(
    tiny_base: Path, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    bench = quantized(tiny_base, tmp_path, torch.float16, "1GB", **NESTED)
    file = bench.base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": "float16", "torch_dtype": "float16"}))
    ended = run_merge(Bench(bench.base, tmp_path / "runs"), make_adapter(bench.base, tmp_path / "adapter"))
    assert ended.status == EXIT_OK, ended.error
    assert AutoConfig.from_pretrained(ended.out / "weights").dtype is torch.bfloat16
    assert json.loads((ended.out / "weights" / "config.json").read_text())["torch_dtype"] == "bfloat16"
