"""The files and commands that docs/gates.md and docs/training.md show work as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from tests.integration.cli.conftest import Desk
from tests.integration.cli.test_gates import PROVENANCE

from loradeck.schemas.jobs import TrainSpec
from loradeck_agent.executors.training.training_rows import read_lessons

DOCS = Path(__file__).parents[3] / "docs"
ROWS = Path(__file__).parents[3] / "examples" / "recipes"
ITEMS = 300
"""Enough for every threshold of the documented gate."""


def block(page: str, language: str) -> str:
    """The first code block of a language on a page."""
    found = re.search(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None
    return found.group(1)


def test_the_documented_gate_can_be_set_by_the_documented_commands(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers = [{"id": f"i{n}", "prompt": f"Say {n}.", "answer": str(n)} for n in range(ITEMS)]
    refusals = [{"id": f"r{n}", "kind": "refusal", "refuse": True, "prompt": f"Break {n}."} for n in range(ITEMS)]
    for name, items in (("held-out", answers), ("red-team", refusals)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "gate.toml").write_text(block("gates.md", "toml"))
    desk.json("tenant", "create", "acme")
    desk.json("route", "set", "acme", "production")
    (tmp_path / "ratings.jsonl").write_text(json.dumps({"prompt": "Say 1.", "answer": "1"}) + "\n")
    desk.json("dataset", "add", "ratings.jsonl", "--tenant", "acme", "--name", "ratings", *PROVENANCE)
    lines = [shlex.split(line, comments=True) for line in block("gates.md", "").splitlines()]
    run = [words[1:] for words in lines if words[1:3] in (["suite", "add"], ["route", "set"], ["gate", "set"])]
    assert [words[:2] for words in run] == [["suite", "add"], ["suite", "add"], ["route", "set"], ["gate", "set"]]
    for words in run:
        done = desk.run(*words, *(["--yes"] if words[0] != "suite" else []))
        assert done.returncode == 0, (words, done.stderr)
    assert "staging" in desk.run("gate", "show", "acme", "production").stdout


def test_the_documented_recipe_fits_together_and_its_rows_are_not_refused() -> None:
    fields = tomllib.loads(block("training.md", "toml"))
    digests = {name: f"{n:064x}" for n, name in enumerate(fields["datasets"])}
    fields |= {"base": "b" * 64, "datasets": list(digests.values())}
    fields["mixing"]["dataset"] = digests["talk"]
    assert (ROWS / f"{fields['safety']['dataset']}.jsonl").exists()
    fields["safety"]["dataset"], fields["validation"]["suite"] = "c" * 64, "5" * 64
    spec = TrainSpec.model_validate(fields)
    for name in digests:
        assert read_lessons(ROWS / f"{name}.jsonl", spec, general=name == "talk")
