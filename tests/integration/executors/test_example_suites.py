"""The example suites: what is committed is what the program writes, fit to be registered, and large enough to judge."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import pytest

from loradeck.artifacts.rows.contamination import contaminated
from loradeck.artifacts.rows.dataset_rows import Scan, rows_in
from loradeck.artifacts.rows.suite_items import items_in
from loradeck.rules.quality.gates import require_big_enough
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.manifest import Provenance
from loradeck.schemas.suite import ItemKind
from suites import generate, measure

FOLDER = Path(generate.__file__).parent
KINDS = {"calls": ItemKind.TOOL_CALL, "red-team": ItemKind.REFUSAL, "general": ItemKind.CHOICE}


def test_the_committed_files_are_those_the_program_writes() -> None:
    written = generate.files()
    for name, text in written.items():
        assert (FOLDER / name).read_text() == text, f"{name} is stale: cd examples && python -m suites.generate"
    found = {path.name for path in FOLDER.iterdir() if path.suffix in (".toml", ".jsonl")}
    assert found == written.keys()


@pytest.mark.parametrize("name", generate.SUITES)
def test_each_suite_comes_in_as_it_is_and_no_row_of_acmes_gives_it_away(name: str) -> None:
    paths = {f"{name}.jsonl": FOLDER / f"{name}.jsonl"}
    items = items_in(paths)
    assert {item.kind for item in items} == {KINDS[name]}
    Provenance.model_validate(tomllib.loads((FOLDER / f"{name}.toml").read_text()))
    with Scan(None) as scan:
        for where, row in rows_in(paths):
            scan.row(where, row)
    report = scan.report("0" * 64)
    assert (report.findings, report.duplicates) == ((), 0)
    tickets = (FOLDER.parent / "tickets" / "acme").glob("tickets-*.jsonl")
    rows = [json.loads(line)["prompt"] for path in tickets for line in path.read_text().splitlines()]
    assert contaminated(rows, {item.id: item.prompt[-1]["content"] for item in items}) == {}


def test_the_gate_is_one_that_its_suites_can_tell(tmp_path: Path) -> None:
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in (measure.OWN, *generate.SUITES)}
    config: GateConfig = measure.gate(digests)
    assert {part.suite for part in config.suites} == set(digests.values())
    held_out = len((FOLDER.parent / "tickets" / "acme" / "held-out.jsonl").read_text().splitlines())
    sizes = {digests[name]: len(items_in({name: FOLDER / f"{name}.jsonl"})) for name in generate.SUITES}
    require_big_enough(config, sizes | {digests[measure.OWN]: held_out})


def test_every_answer_is_offered_as_often_as_every_other_and_stands_in_every_place() -> None:
    items = items_in({"general": FOLDER / "general.jsonl"})
    places = [item.choices.index(str(item.answer)) for item in items]
    assert {places.count(place) for place in range(4)} == {len(items) // 4}
