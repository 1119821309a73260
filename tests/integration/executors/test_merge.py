"""The merge executor, on a random two-layer model: exact, bounded, and refused where it would be wrong."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.fakes import peft_adapters
from tests.integration.executors.running import SUITE, Bench, Ended, write_rows
from transformers import AutoModelForCausalLM

from loradeck.artifacts import BadArtifact, base_manifest
from loradeck.schemas.attestation import EvaluationReport, MergeReport
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK, EXIT_PREEMPTED, ExecutorEventType
from loradeck.schemas.jobs import EvaluateSpec, MergeSpec
from loradeck.schemas.manifest import BaseManifest, Form, Release
from loradeck_agent.executors.merging import merge_weights, quantized_base
from loradeck_agent.executors.protocol import Run

ADAPTER = "a" * 64


def run_merge(bench: Bench, adapter: Path, **changes: Any) -> Ended:
    spec = MergeSpec(tenant="acme", release=bench.release(ADAPTER))
    return bench.run(spec, {ADAPTER: str(adapter)}, **changes)


def resaved(base: Path, folder: Path, dtype: torch.dtype, shard: str = "1GB") -> Bench:
    """The same model stored in another type, or in several files."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    for path in base.glob("*token*"):
        (folder / path.name).write_bytes(path.read_bytes())
    for path in base.glob("chat_template*"):
        (folder / path.name).write_bytes(path.read_bytes())
    root = folder.with_name(f"{folder.name}-runs")
    root.mkdir()
    return Bench(folder, root)


def by_peft(base: Path, adapter: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What peft makes of it in fp32, cast once at the end."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return {name: tensor.to(dtype) for name, tensor in merged.state_dict().items()}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.fixture
def adapter(bench: Bench, make_adapter: Any) -> Path:
    path: Path = make_adapter(bench.base, bench.root / "adapter")
    return path


@pytest.mark.parametrize(
    ("dtype", "shard"), [(torch.bfloat16, "1GB"), (torch.float16, "40KB"), (torch.float32, "40KB")]
)
def test_a_merge_is_bit_for_bit_peft_s_fp32_merge_cast_once(
    bench: Bench, adapter: Path, tmp_path: Path, dtype: torch.dtype, shard: str
) -> None:
    other = resaved(bench.base, tmp_path / "other", dtype, shard)
    ended = run_merge(other, adapter)
    assert ended.status == EXIT_OK, ended.last
    made, expected = weights_of(ended.out / "weights"), by_peft(other.base, adapter, dtype)
    assert made.keys() | {"lm_head.weight"} == expected.keys() | {"lm_head.weight"}
    for name, tensor in made.items():
        assert torch.equal(tensor, expected[name]), name
    original = weights_of(other.base)
    assert sum(not torch.equal(made[name], original[name]) for name in made) == 14
    assert (len(list((ended.out / "weights").glob("*.safetensors"))) > 1) is (shard != "1GB")


@pytest.mark.parametrize("kind", peft_adapters.SERVED)
def test_whatever_vllm_serves_is_merged_as_peft_merges_it(bench: Bench, tmp_path: Path, kind: str) -> None:
    model = peft_adapters.save(bench.base, tmp_path, **peft_adapters.SERVED[kind])
    merged_beside(bench, tmp_path)
    expected, made = model.merge_and_unload().state_dict(), weights_of(bench.root / "out0")
    assert sum(not torch.equal(tensor, weights_of(bench.base)[name]) for name, tensor in made.items()) > 1
    for name, tensor in made.items():
        assert torch.equal(tensor, expected[name]), name


def test_dora_which_no_engine_serves_is_merged_as_peft_merges_it_and_its_probe_is_near(
    bench: Bench, tmp_path: Path
) -> None:
    model = peft_adapters.save(bench.base, tmp_path / "dora", **peft_adapters.DORA)
    ended = run_merge(bench, tmp_path / "dora")
    assert ended.status == EXIT_OK, ended.last
    report = MergeReport.model_validate_json((ended.out / "report.json").read_text())
    assert report.probe.kl < 1e-6 < 0.1 < report.probe.kl_base
    expected = model.merge_and_unload().state_dict()
    for name, tensor in weights_of(ended.out / "weights").items():
        assert torch.equal(tensor, expected[name]), name


def test_the_merged_weights_are_a_base_of_their_own_with_the_same_template_and_report_how_near_they_are(
    bench: Bench, adapter: Path
) -> None:
    canary = ({"role": "user", "content": "a canary"},)
    ended = run_merge(bench, adapter, canaries=(canary,))
    assert ended.status == EXIT_OK, ended.last
    manifest = BaseManifest.model_validate_json((ended.out / "weights.manifest.json").read_text())
    report = MergeReport.model_validate_json((ended.out / "report.json").read_text())
    assert base_manifest(ended.out / "weights", "-", "-").digest == manifest.digest == report.merged
    assert manifest.digest != bench.digest
    before = {file.path: file.sha256 for file in base_manifest(bench.base, "-", "-").files}
    after = {file.path: file.sha256 for file in manifest.files}
    assert {name for name in before if before[name] != after[name]} == {"model.safetensors"}
    assert (report.tensors, report.probe.prompts) == (14, 5)
    assert report.probe.agree == report.probe.positions > 40
    assert report.probe.kl < 1e-6 < 0.1 < report.probe.kl_base, "stored in fp32, nothing is lost"
    assert ended.last.data == {"merged": manifest.digest, "kl": report.probe.kl, "kl_base": report.probe.kl_base}
    assert run_merge(bench, adapter).last.data["merged"] == manifest.digest, "the same again"


def test_merged_weights_are_evaluated_as_the_release_they_are(bench: Bench, adapter: Path) -> None:
    ended = run_merge(bench, adapter)
    report = MergeReport.model_validate_json((ended.out / "report.json").read_text())
    items = [{"id": f"i{n}", "prompt": "word " * n, "answer": "?"} for n in (3, 1)]
    under = bench.evaluate(items, (ADAPTER, adapter), max_new_tokens=6)
    parts = {"tenant": "acme", "form": Form.MERGED, "base": bench.digest, "adapter": ADAPTER, "merged": report.merged}
    release = Release.model_validate(parts)
    assert release.id == report.release
    suite = write_rows(bench.root / "held-out.jsonl", items)
    spec = EvaluateSpec(tenant="acme", release=release.id, suite=SUITE, max_new_tokens=6)
    weights = {"base": str(ended.out / "weights"), "base_digest": report.merged, "release": release}
    merged = bench.run(spec, {SUITE: str(suite)}, **weights)
    assert merged.status == EXIT_OK, merged.last
    answers = [
        [item.answer for item in EvaluationReport.model_validate_json((e.out / "report.json").read_text()).items]
        for e in (under, merged)
    ]
    assert answers[0] == answers[1]
    refused = bench.run(spec, {SUITE: str(suite)}, **weights | {"release": release.model_copy(update={"tenant": "x"})})
    assert (refused.status, refused.last.code) == (EXIT_BAD_SPEC, "bad_spec")


def test_a_cast_to_bf16_is_measured_and_is_near(bench: Bench, adapter: Path, tmp_path: Path) -> None:
    other = resaved(bench.base, tmp_path / "bf16", torch.bfloat16)
    ended = run_merge(other, adapter)
    probe = MergeReport.model_validate_json((ended.out / "report.json").read_text()).probe
    assert 0 < probe.kl < probe.kl_base / 20
    assert probe.kl <= probe.kl_worst


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("modules_to_save", ["lm_head"]),
        ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [1]),
    ],
)
def test_what_is_no_plain_lora_is_refused_and_leaves_nothing(
    bench: Bench, adapter: Path, setting: str, value: Any
) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {setting: value}))
    ended = run_merge(bench, adapter)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "unsupported_adapter")
    assert ended.last.message.endswith(f"adapter_config.json sets {setting}")
    assert not [path for path in ended.folder.iterdir() if "out" in path.name]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq has quantized it; merged into are unquantized weights, and four"),
        ({"quant_method": "fp8"}, "fp8 has quantized it; merged into are unquantized weights, and four"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "four bits of bitsandbytes (nf4, fp4)"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "run: pip install 'loradeck[nf4]'"),
    ],
)
def test_a_base_that_is_quantized_otherwise_than_is_known_is_refused_with_what_is(
    bench: Bench, adapter: Path, settings: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_base.transformers.utils, "is_bitsandbytes_available", lambda: False)
    folder = Path(shutil.copytree(bench.base, bench.root / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    ended = run_merge(Bench(folder, bench.root), adapter)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "unsupported_base")
    assert said in ended.last.message
    assert not [path for path in ended.folder.iterdir() if "out" in path.name]


def test_an_adapter_of_another_base_is_refused(
    bench: Bench, adapter: Path, make_base: Any, make_adapter: Any, tmp_path: Path
) -> None:
    wider = make_base(tmp_path / "wider", 3, head_dim=16)
    ended = run_merge(bench, make_adapter(wider, tmp_path / "foreign"))
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "wrong_base")
    assert "model.layers.0.self_attn.k_proj maps 48 to 32 in the adapter, 48 to 24 in the base" in ended.last.message
    tensors = load_file(adapter / "adapter_model.safetensors")
    left = {key: tensor for key, tensor in tensors.items() if "layers.1.mlp.up_proj" not in key}
    save_file(left, adapter / "adapter_model.safetensors")
    ended = run_merge(bench, adapter)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "wrong_base")
    assert "the base has model.layers.1.mlp.up_proj, the adapter has no tensors for it" in ended.last.message


def test_a_base_with_the_same_shapes_and_another_digest_is_refused_after_it_was_read(
    bench: Bench, adapter: Path, make_base: Any, tmp_path: Path
) -> None:
    twin = make_base(tmp_path / "twin", 9)
    ended = run_merge(bench, adapter, base=str(twin))
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "wrong_base")
    assert base_manifest(twin, "-", "-").digest in ended.last.message
    assert not ended.out.exists()


def test_an_adapter_that_changes_nothing_and_one_that_overflows_are_refused(
    bench: Bench, adapter: Path, tmp_path: Path
) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({k: v * ("lora_A" in k) for k, v in tensors.items()}, adapter / "adapter_model.safetensors")
    ended = run_merge(bench, adapter)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "nothing_merged")
    other = resaved(bench.base, tmp_path / "fp16", torch.float16)
    save_file({k: v * 1e4 for k, v in tensors.items()}, adapter / "adapter_model.safetensors")
    ended = run_merge(other, adapter)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_values")
    assert "stored as F16" in ended.last.message


def test_weights_beside_the_model_that_would_stay_unmerged_are_refused(
    bench: Bench, adapter: Path, tmp_path: Path
) -> None:
    other = resaved(bench.base, tmp_path / "two", torch.float32)
    (other.base / "consolidated.safetensors").write_bytes((other.base / "model.safetensors").read_bytes())
    again = Bench(other.base, other.root)
    ended = run_merge(again, adapter)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "unsupported_base")
    assert "2 weight files" in ended.last.message


def test_a_merge_with_the_wrong_scale_does_not_pass_its_probe(
    bench: Bench, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = merge_weights._adapter

    def doubled(*args: Any) -> Any:
        found = right(*args)
        twice = {name: replace(pair, factor=pair.factor * 2) for name, pair in found.pairs.items()}
        return replace(found, pairs=twice)

    monkeypatch.setattr(merge_weights, "_adapter", doubled)
    ended = run_merge(bench, adapter)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "probe_failed")
    assert "the base alone differs by" in ended.last.message
    assert not ended.out.exists()


def test_it_holds_a_few_weights_in_memory_and_not_the_shard(
    bench: Bench, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_weights, "CHUNK", 4096)  # of what is copied: the model here is smaller than a real piece
    out = tmp_path / "out"
    out.mkdir()
    shard = (bench.base / "model.safetensors").stat().st_size
    tracemalloc.start()
    merge_weights.merge_weights(bench.base, adapter, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < shard, "what Python reads; the sums in fp32 are torch's"


def test_a_merge_that_is_stopped_leaves_with_75_and_no_result(
    bench: Bench, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Run.progress

    def stop(self: Run, *args: Any, **more: Any) -> None:
        progress(self, *args, **more)
        self.stopping = True

    monkeypatch.setattr(Run, "progress", stop)
    ended = run_merge(bench, adapter)
    assert ended.status == EXIT_PREEMPTED
    assert ended.last.type is ExecutorEventType.PREEMPTED
    assert not [path for path in ended.folder.iterdir() if "out" in path.name]


def test_a_disk_that_refuses_what_is_written_beside_the_sums_ends_the_merge_with_its_code(
    bench: Bench, adapter: Path
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    shard = (bench.base / "model.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (shard // 2, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as refused:
            merged_beside(bench, adapter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert refused.value.errno == errno.EFBIG


def test_a_base_that_is_cut_short_and_one_who_raises_between_two_weights_end_the_merge_and_its_threads(
    bench: Bench, adapter: Path
) -> None:
    class Enough(Exception):
        pass

    def between(done: int, of: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        merged_beside(bench, adapter, between)

    bench = copied(bench)
    shard = bench.base / "model.safetensors"

    def cut(done: int, of: int) -> None:
        with shard.open("r+b") as file:
            file.truncate(4096)

    with pytest.raises(BadArtifact) as bad:
        merged_beside(bench, adapter, cut)
    assert bad.value.code == "truncated_safetensors"


def copied(bench: Bench) -> Bench:
    """With a base of its own, to spoil."""
    return Bench(Path(shutil.copytree(bench.base, bench.root / "base")), bench.root)


def merged_beside(bench: Bench, adapter: Path, between: merge_weights.Between = lambda done, of: None) -> None:
    """A merge in this process; whatever comes of it, it leaves no thread."""
    before, out = set(threading.enumerate()), bench.root / f"out{len(list(bench.root.glob('out*')))}"
    out.mkdir()
    try:
        merge_weights.merge_weights(bench.base, adapter, out, between)
    finally:
        assert {*threading.enumerate()} <= before, "others may end meanwhile, none is left"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused_wherever_it_lies(bench: Bench, adapter: Path, value: float) -> None:
    bench = copied(bench)
    tensors = load_file(bench.base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][-1, -1] = value
    save_file(tensors, bench.base / "model.safetensors")
    with pytest.raises(BadArtifact) as bad:
        merged_beside(bench, adapter)
    assert bad.value.code == "bad_values"
    assert "model.layers.1.mlp.up_proj.weight" in bad.value.detail
