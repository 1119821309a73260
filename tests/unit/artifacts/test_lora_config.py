"""Configurations that are read as peft reads them, and those that are refused before they cost an engine its time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import peft_adapters
from tests.fakes.handmade_adapters import config, manifest_of

from loradeck.artifacts import BadArtifact, verify_adapter
from loradeck.artifacts.adapters import WEIGHTS, check_modules, lora_pairs, modules_of
from loradeck.artifacts.lora_config import CONFIG, MODULES, LoraSettings, read_lora
from loradeck.artifacts.tensors import Tensor, read_header
from loradeck.schemas.manifest import AdapterManifest


def described(folder: Path, **changes: Any) -> AdapterManifest:
    lora, modules = read_lora(folder / CONFIG), modules_of(read_header(folder / WEIGHTS))
    fields = {"rank": lora.largest, "alpha": lora.lora_alpha, "target_modules": lora.named(modules)}
    return manifest_of(folder, **fields, dora=bool(lora.use_dora), **changes)


@pytest.mark.parametrize("kind", [*peft_adapters.SERVED, "DoRA"])
def test_modules_ranks_and_factors_are_peft_s(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    model = peft_adapters.save(tiny_base, tmp_path, **peft_adapters.SERVED.get(kind, peft_adapters.DORA))
    layers = {name.removeprefix("base_model.model."): layer for name, layer in model.named_modules()}
    adapted = {name: layer for name, layer in layers.items() if hasattr(layer, "lora_A")}
    inside = ("lora_", "base_layer")
    linear = [n for n, one in layers.items() if hasattr(one, "in_features") and not any(part in n for part in inside)]
    lora = read_lora(tmp_path / CONFIG)
    assert {name for name in linear if lora.changes(name)} == adapted.keys()
    for name, layer in adapted.items():
        assert lora.of(name) == (layer.r["default"], pytest.approx(layer.scaling["default"], rel=1e-12))
    manifest = described(tmp_path)
    assert manifest.rank == max(layer.r["default"] for layer in adapted.values())
    verify_adapter(tmp_path, manifest)
    verify_adapter(tmp_path, manifest, tiny_base)


def test_a_module_that_an_expression_names_and_the_file_lacks_is_noticed_without_the_base_too(
    tiny_base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    peft_adapters.save(tiny_base, tmp_path, **peft_adapters.SERVED["an expression for modules"])
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({k: v for k, v in tensors.items() if "layers.0.mlp.up" not in k}, tmp_path / WEIGHTS)
    for base, code in ((None, "unsupported_adapter"), (tiny_base, "wrong_base")):
        with pytest.raises(BadArtifact) as caught:
            verify_adapter(tmp_path, described(tmp_path), base)
        assert caught.value.code == code
        assert "mlp.up_proj" in caught.value.detail


def test_a_manifest_that_does_not_say_dora_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    peft_adapters.save(tiny_base, tmp_path, **peft_adapters.DORA)
    manifest = described(tmp_path)
    with pytest.raises(BadArtifact) as caught:
        verify_adapter(tmp_path, manifest.model_copy(update={"dora": False}))
    assert (caught.value.code, "DoRA True, the manifest says False" in caught.value.detail) == (
        "manifest_mismatch",
        True,
    )


def refusal(tmp_path: Path, text: str) -> str:
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(BadArtifact) as caught:
        read_lora(tmp_path / CONFIG)
    assert caught.value.code == "unsupported_adapter"
    return caught.value.detail


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": "(?=q).*"}, "list the modules instead"),
        ({"target_modules": "(q)\\1"}, "list the modules instead"),
        ({"target_modules": "(" * 400}, "list the modules instead"),
        ({"target_modules": "a)|(b"}, "list the modules instead"),
        ({"target_modules": "(x{1000}){1000}"}, "list the modules instead"),
        ({"target_modules": "q" * 2001}, "at most 2000"),
        ({"exclude_modules": "(?!q).*"}, "exclude_modules"),
        ({"rank_pattern": {"([a-z]+)*q": 2}}, "spell the names out"),
        ({"rank_pattern": {"(q|q)(q|q)": 2}}, "spell the names out"),
        ({"rank_pattern": {".*.*q": 2}}, "spell the names out"),
        ({"rank_pattern": {"q_proj[": 2}}, "unterminated"),
        ({"rank_pattern": {"q_proj": 513}}, "less than or equal to 512"),
        ({"rank_pattern": {"q_proj": True}}, "valid integer"),
        ({"rank_pattern": {f"q{n}": 2 for n in range(1025)}}, "at most 1024"),
        ({"alpha_pattern": {"q_proj": 0}}, "greater than 0"),
        ({"alpha_pattern": {"q_proj": "8"}}, "valid"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"layers_to_transform": "1"}, "layers_to_transform"),
    ],
)
def test_what_cannot_be_read_for_certain_or_in_time_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    detail = refusal(tmp_path, json.dumps(config(**changes)))
    assert said in detail
    assert f"{CONFIG}: {next(iter(changes))} is " in detail
    assert len(detail) < 1000


def test_a_setting_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert "a name twice" in refusal(tmp_path, json.dumps(config())[:-1] + ', "r": 8}')


def test_no_expression_is_slow_to_match() -> None:
    lora = LoraSettings(r=1, lora_alpha=1, target_modules=r"(([a-z._]+)*(.|.)*)*!", rank_pattern={".*(q|qq|qqq)_x": 2})
    assert not lora.changes("q" * 2000), "Python's own expressions take for ever"
    assert lora.of("q." * 100)[0] == 1


def test_more_modules_than_any_model_has_are_refused_before_each_is_held_against_a_pattern() -> None:
    one = Tensor("F32", (1, 1), 0, 4)
    many = dict.fromkeys((f"base_model.model.layers.{n}.q_proj.lora_A.weight" for n in range(3 * MODULES + 1)), one)
    lora = LoraSettings(r=1, lora_alpha=1, target_modules=frozenset({"q_proj"}))
    with pytest.raises(BadArtifact) as caught:
        lora_pairs(many, lora)
    assert "holds 49,153 tensors" in caught.value.detail


PAIR = {"lora_A": Tensor("F32", (1, 1), 0, 4), "lora_B": Tensor("F32", (1, 1), 0, 4)}


def pairs_of(*modules: str) -> dict[str, Tensor]:
    return {f"base_model.model.{module}.{part}.weight": one for module in modules for part, one in PAIR.items()}


def refused_detail(tensors: dict[str, Tensor], **settings: Any) -> str:
    lora = LoraSettings.model_validate({"r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], **settings})
    with pytest.raises(BadArtifact) as caught:
        check_modules(lora_pairs(tensors, lora), lora)
    assert caught.value.code == "unsupported_adapter"
    assert len(caught.value.detail) < 500
    return caught.value.detail


@pytest.mark.parametrize(
    ("tensors", "settings", "said"),
    [
        (pairs_of("a." * 20_000 + "q_proj"), {"rank_pattern": {".*x": 1}}, "characters, more than 300"),
        (pairs_of("model.layers." + "9" * 5000 + ".q_proj"), {}, "characters, more than 300"),
        (pairs_of("model.layers." + "9" * 200 + ".q_proj"), {}, "is in no layer"),
        (pairs_of("model.layers.0.q_proj", "model.layers.99999.q_proj"), {}, "more than any model has"),
        (pairs_of("model.layers.0.q_proj", "model.layers.9999.q_proj"), {}, "no tensors in layer 1"),
        (
            pairs_of(*(f"model.layers.{n}.q_proj" for n in range(3000))),
            {"rank_pattern": {f"q{n}": 1 for n in range(700)}},
            "700 keys of patterns for 3,000 modules",
        ),
    ],
)
def test_what_would_keep_a_hub_busy_is_refused_before_it_does(
    tensors: dict[str, Tensor], settings: dict[str, Any], said: str
) -> None:
    assert said in refused_detail(tensors, **settings)


def test_a_key_with_a_dot_star_takes_no_time_that_grows_with_the_square_of_a_name() -> None:
    lora = LoraSettings(r=1, lora_alpha=1, target_modules=frozenset({"q"}), rank_pattern={".*x": 2, "^.*y": 3})
    assert [lora.of(name)[0] for name in ("a.bx", "a.by", "a.xb", "x")] == [2, 3, 1, 2]
    assert lora.of("a." * 300_000)[0] == 1, "its square would take hours"


def test_a_part_of_a_module_that_stands_twice_is_refused() -> None:
    tensors = pairs_of("model.layers.0.q_proj")
    magnitude = "base_model.model.model.layers.0.q_proj.lora_magnitude_vector"
    tensors |= dict.fromkeys((magnitude, f"{magnitude}.weight"), Tensor("F32", (1,), 0, 4))
    assert "lora_magnitude_vector twice" in refused_detail(tensors, use_dora=True)


def test_a_factor_that_makes_small_values_overflow_is_refused_wherever_it_comes_from(
    tiny_base: Path, tmp_path: Path
) -> None:
    for number, settings in enumerate(
        ({"lora_alpha": 260}, {"use_rslora": True, "lora_alpha": 130}, {"alpha_pattern": {"1.self_attn.k_proj": 260}})
    ):
        peft_adapters.save(tiny_base, tmp_path / str(number), **settings)
        with pytest.raises(BadArtifact) as caught:
            verify_adapter(tmp_path / str(number), described(tmp_path / str(number)))
        assert "alpha multiplies by 65" in caught.value.detail


def test_one_alpha_makes_one_digest_and_older_manifests_keep_theirs(tmp_path: Path) -> None:
    plain = manifest_of(tmp_path, files=({"path": "a", "size": 1, "sha256": "a" * 64},))
    assert '"alpha":8,' in plain.model_dump_json()
    assert "dora" not in plain.model_dump_json()
    again = AdapterManifest.model_validate_json(plain.model_dump_json().replace('"alpha":8,', '"alpha":8.0,'))
    assert (again.digest, again.alpha) == (plain.digest, 8)
    assert AdapterManifest.model_validate(plain.model_dump() | {"alpha": 8.5}).alpha == 8.5
