"""The example of `loradeck decide` on SmolLM2-135M: retrieval wins over an adapter where truths have changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fleets.processes.fleet import fleet_at, told

from base_model import ensure_base
from incident.fleet import wait_for
from loradeck.schemas.decision import Decided
from loradeck.schemas.jobs import OVER

pytestmark = pytest.mark.drawn(seconds=90)

EXAMPLE = Path(__file__).parents[2] / "examples" / "decide"
WRITTEN = ("--source", "example", "--tier", "public", "--origin", "synthetic", "--synthetic-depth", "0")
WRITTEN += ("--verifier", "known beforehand", "--consent", "own", "--licence", "Apache-2.0")


@pytest.mark.timeout(1800)
def test_the_example_says_no_and_why() -> None:
    base = ensure_base()
    with fleet_at(base, names=("gpu-01",)) as fleet:
        fleet.cli("base", "add", str(base), "--model-id", "HuggingFaceTB/SmolLM2-135M-Instruct", "--revision", "1")
        fleet.cli("tenant", "create", "acme")
        for noun, file, purpose in (("dataset", "hours", "train"), ("suite", "hours-held-out", "evaluate")):
            named = ("--tenant", "acme", "--name", "hours", "--purpose", purpose)
            use = ("--for", "selection") if noun == "suite" else ()
            fleet.cli(noun, "add", str(EXAMPLE / f"{file}.jsonl"), *named, *WRITTEN, *use)
        job = fleet.cli("job", "train", str(EXAMPLE / "train.toml"))["id"]
        wait_for("trained", lambda: fleet.ask(f"jobs/{job}")["state"] in OVER, 1500)
        assert fleet.ask(f"jobs/{job}")["state"] == "done", told(fleet)
        made = Decided.model_validate(fleet.cli("decide", "acme", str(EXAMPLE / "decide.toml"), seconds=900))
    sheet = made.worksheet
    print(sheet.model_dump_json(indent=1))  # the figures of docs/decide.md
    arms = {arm.name: arm for arm in sheet.arms}
    assert not sheet.weights
    assert sheet.choice == "retrieval"
    assert any("truths that have changed" in why for why in sheet.against)
    retrieved, adapter = arms["retrieval"].changed, arms["adapter"].changed
    assert retrieved is not None
    assert adapter is not None
    assert retrieved.mean > adapter.mean
    assert arms["adapter"].train_hours
    assert arms["retrieval"].cited is not None
