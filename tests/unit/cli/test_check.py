"""`loradeck check`: adapter, base, chat template and engine, compared without a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.fakes.handmade_adapters import config, manifest_of, safetensors, shapes, write_adapter, write_base

from loradeck.artifacts import base_manifest
from loradeck.cli import cli

ENGINE = ("--vllm", "0.32.1", "--engine-args", "--enable-lora --max-lora-rank=8")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = write_base(tmp_path / "base")
    manifest = base_manifest(folder, "org/model", "r1")
    (tmp_path / "base.manifest.json").write_text(manifest.model_dump_json())
    return folder


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    """An adapter as a job leaves it, with its base's digest, and with the template that it was trained for."""
    folder = tmp_path / "adapter"
    write_adapter(folder)
    manifest = manifest_of(folder, base=base_manifest(base, "-", "-").digest)
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def check(status: int, *words: object) -> dict[str, str]:
    """What was found -> whether it fits."""
    result = CliRunner().invoke(cli, ["check", "--json", *map(str, words)])
    assert result.exit_code == status, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return {"verdict": found["verdict"]} | {one["what"]: one["fit"] for one in found["checks"]}


def test_what_was_made_for_each_other_matches(adapter: Path, base: Path) -> None:
    found = check(0, adapter, "--base", base, "--strict", *ENGINE)
    assert set(found) == {"verdict", "files", "base", "revision", "template", "engine", "rank", "modules"}
    assert set(found.values()) == {"match"}
    said = CliRunner().invoke(cli, ["check", str(adapter), "--base", str(base)])
    assert (said.exit_code, said.output.splitlines()[-1]) == (0, "MATCH")


def test_another_template_a_low_rank_and_another_base_are_exit_1_each_by_name(adapter: Path, base: Path) -> None:
    (base / "chat_template.jinja").write_text("{{ messages }} ")
    found = check(1, adapter, "--base", base, "--engine-args", "--enable-lora --max-lora-rank 1")
    wrong = {what for what, fit in found.items() if fit == "mismatch"}
    assert wrong == {"verdict", "base", "template", "rank"}
    said = CliRunner().invoke(cli, ["check", str(adapter), "--base", str(base)])
    assert said.exit_code == 1
    assert "these do not fit [combination]" in said.output


def test_dora_does_not_fit_vllm_and_fits_its_base(tmp_path: Path, base: Path) -> None:
    lengths = {
        f"{key[: -len('.lora_B.weight')]}.lora_magnitude_vector": s[:1] for key, s in shapes().items() if "_B" in key
    }
    settings = config(use_dora=True, base_model_name_or_path="org/model")
    write_adapter(tmp_path / "dora", weights=safetensors(shapes() | lengths), settings=settings)
    assert "method" not in check(0, tmp_path / "dora", "--base", base)
    assert check(1, tmp_path / "dora", "--base", base, *ENGINE)["method"] == "mismatch"


def test_an_adapter_whose_bytes_are_not_its_manifests_does_not_fit(adapter: Path, base: Path) -> None:
    with (adapter / "adapter_config.json").open("a") as file:
        file.write(" ")
    assert check(1, adapter, "--base", base) == {"verdict": "mismatch", "files": "mismatch"}


def test_an_adapter_of_another_size_does_not_fit_though_its_names_say_so(tmp_path: Path, base: Path) -> None:
    write_adapter(tmp_path / "adapter", settings=config(base_model_name_or_path="org/model", revision="r1"))
    wide = write_base(tmp_path / "wide", hidden_size=96)
    names = ("--model-id", "org/model", "--revision", "r1")
    assert check(0, tmp_path / "adapter", "--base", base)["base"] == "match"
    assert check(1, tmp_path / "adapter", "--base", wide, *names)["files"] == "mismatch"


def test_a_checkout_without_the_weights_is_compared_by_its_manifest(adapter: Path, base: Path) -> None:
    (base / "model.safetensors").unlink()
    assert check(0, adapter, "--base", base)["base"] == "match"
    (base / "config.json").write_text((base / "config.json").read_text() + " ")
    said = CliRunner().invoke(cli, ["check", str(adapter), "--base", str(base)])
    assert said.exit_code == 1
    assert "a file of the base is not its manifest's [combination]" in said.output


def test_what_nobody_says_is_refused_where_that_is_asked(tmp_path: Path, base: Path) -> None:
    write_adapter(tmp_path / "adapter", settings=config(base_model_name_or_path="org/model"))
    found = check(0, tmp_path / "adapter", "--base", base)
    assert {what for what, fit in found.items() if fit == "unknown"} == {"verdict", "revision", "template"}
    check(1, tmp_path / "adapter", "--base", base, "--strict")


def test_a_folder_that_is_no_adapter_is_wrong_use(tmp_path: Path, base: Path) -> None:
    result = CliRunner().invoke(cli, ["check", str(tmp_path), "--base", str(base)])
    assert result.exit_code == 2
