"""A generate job on a hub, an agent and an engine: rows that a served release writes become a dataset of the hub's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fakes.word_model import write_base
from tests.fleets.processes.fleet import fleet_at, told

from incident.fleet import wait_for
from loradeck.schemas.jobs import OVER

pytestmark = pytest.mark.drawn(seconds=15)

OF_PEOPLE = ("--source", "desk", "--tier", "public", "--origin", "human", "--consent", "own", "--purpose", "train")
RECIPE = """
tenant = "acme"
name = "made"
beside = ["people"]
prompts = 4
temperatures = [0.7, 1.0]
max_new_tokens = 400

[[sources]]
teacher = "tests/words"
licence = "MIT"
terms = "ann read them, 2026-11-30"

[[templates]]
prompt = "{{one}} w2"

[slots]
one = ["w3", "w4", "w5", "w6"]

[verifier]
form = "text"
"""


def test_rows_that_a_served_release_wrote_are_a_dataset_one_deeper_and_a_freeze_holds_their_job(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", ends=True)
    rows, recipe = tmp_path / "people.jsonl", tmp_path / "made.toml"
    rows.write_text("".join(json.dumps({"prompt": f"w{n} w7", "answer": f"w{n}"}) + "\n" for n in range(10, 14)))
    recipe.write_text(RECIPE)
    with fleet_at(base, names=("gpu-01",)) as fleet:
        fleet.cli("base", "add", str(base), "--model-id", "tests/words", "--revision", "1")
        fleet.cli("tenant", "create", "acme")
        named = ("--tenant", "acme", "--name", "people", "--licence", "customer-owned")
        people = fleet.cli("dataset", "add", str(rows), *named, *OF_PEOPLE)["digest"]
        fleet.cli("tenant", "freeze", "acme", "--reason", "peak week")
        job = fleet.cli("job", "generate", str(recipe), "--override", "the week is over")["id"]
        wait_for("it is over", lambda: fleet.ask(f"jobs/{job}")["state"] in OVER, 120)
        done = fleet.ask(f"jobs/{job}")
        assert done["state"] == "done", f"{done}\n{told(fleet)}"
        entries = [one["manifest"] for one in fleet.ask("datasets")]
        (made,) = [manifest for manifest in entries if manifest["name"] == "made"]
        (event,) = [one for one in fleet.ask("events?tenant=acme") if one["override"]]
    assert (done["result"]["rows"], done["result"]["depth"], made["rows"]) == (made["rows"], 1, made["rows"])
    assert 1 <= made["rows"] <= 8
    assert made["provenance"]["origin"] == "synthetic"
    assert done["spec"]["beside"] == [people]
    assert event["reason"] == "the week is over"
