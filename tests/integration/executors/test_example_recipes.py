"""The example recipes: what is committed is what the program writes, each is valid, and nothing is learnt by heart."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import decide.generate
from loradeck.artifacts.rows.contamination import contaminated
from loradeck_agent.executors.training.training_rows import read_lessons
from recipes import generate, measure

FOLDER = Path(generate.__file__).parent


@pytest.mark.parametrize("program", [generate, decide.generate], ids=["recipes", "decide"])
def test_the_committed_rows_are_those_the_program_writes(program: ModuleType) -> None:
    written, folder = program.files(), Path(str(program.__file__)).parent
    assert {path.name for path in folder.glob("*.jsonl")} == written.keys()
    for name, text in written.items():
        assert (folder / name).read_text() == text, f"{name} is stale: cd examples && python -m {program.__name__}"


@pytest.mark.parametrize("name", measure.RECIPES)
def test_each_recipe_is_valid_with_its_rows_and_none_of_them_is_scored_on(name: str) -> None:
    spec = measure.recipe(name, "b" * 64)
    sets = tomllib.loads((FOLDER / f"{name}.toml").read_text())["datasets"]
    rows = [
        lesson
        for part in sets
        for lesson in read_lessons(FOLDER / f"{part}.jsonl", spec, general=part == "talk" and len(sets) > 1)
    ]
    for part in sets:
        held = read_lessons(FOLDER / f"{part}-held-out.jsonl", spec, general=True)
        items = {lesson.where: lesson.question for lesson in held}
        assert contaminated([row.question for row in rows], items) == {}


def test_every_recipe_in_the_folder_is_measured() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(measure.RECIPES)


def test_tables_stand_between_the_markers(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"# Page\n\n{measure.BEGIN}\nold\n{measure.END}\n\nmore\n")
    score = measure.Score(quality=0.5, n=4, general_nats=1.0)
    result = measure.Result("full", score, score, steps=3, seconds=2.0, peak_memory=10**9, size=10**6)
    measure.write_docs(path, measure.tables({"full": result}))
    text = path.read_text()
    assert "old" not in text
    assert "| 4, exact answers | 50% | **50%** |" in text
    assert text.endswith(f"{measure.END}\n\nmore\n")


def test_an_adapter_stands_beside_every_weight_once_both_were_measured() -> None:
    def result(name: str, general: float, size: int) -> measure.Result:
        before, after = measure.Score(0.0, 40, 0.5), measure.Score(0.9, 40, general)
        return measure.Result(name, before, after, steps=3, seconds=2.0, peak_memory=10**9, size=size)

    some = {"supervised": result("supervised", 0.75, 10**7), "full": result("full", 0.45, 10**8)}
    assert "every weight" not in measure.tables(some)
    text = measure.tables({**some, "mixed": result("mixed", 0.5, 10**7)})
    assert "| an adapter (supervised) | an adapter, general rows mixed in (mixed) | every weight (full) |" in text
    assert "| +0.25 | +0.00 | -0.05 |" in text
    assert "| 10.0 MB | 10.0 MB | 100.0 MB |" in text
