"""What a hub's runs say of a recipe, and how often that is said of settings that are as good or as bad as planted."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from loradeck.rules.quality.run_records import Record, is_said, records
from loradeck.schemas.jobs import Job, JobState, TrainSpec

ROWS = {"d" * 64: 60, "e" * 64: 900}


def recipe(**more: Any) -> TrainSpec:
    fields = {"tenant": "acme", "name": "t", "base": "b" * 64, "datasets": ["e" * 64], "method": "dpo"}
    return TrainSpec.model_validate({**fields, "decision": {"why_weights": "form"}, **more})


def run(n: int, code: str | None = None, **more: Any) -> Job:
    state = JobState.FAILED if code else JobState.DONE
    spec = recipe(seed=n, **more)
    return Job(id=f"j{n}", kind="train", tenant="acme", spec=spec, state=state, code=code, created_ms=0, by="ann")


def said(spec: TrainSpec, runs: list[Job]) -> list[str]:
    return [one.words for one in records(spec, runs, ROWS)]


def test_a_beta_with_which_runs_often_end_at_a_cliff_is_said_with_n_its_interval_and_the_others() -> None:
    low = [run(n, "chosen_fell" if n < 6 else None, beta=0.05) for n in range(10)]
    high = [run(n, "suite_fell" if n < 22 else None, beta=0.5) for n in range(20, 40)]
    assert said(recipe(beta=0.05), [*low, *high]) == [
        "runs with a beta of 0.05 or less: 6 of 10 (31% to 83%) ended at a cliff; of others 2 of 20 (3% to 30%)"
    ]
    assert said(recipe(beta=0.04), [*low, *high]) == []
    assert said(recipe(beta=0.5), [*low, *high]) == []
    assert said(recipe(beta=0.05, method="supervised"), [*low, *high]) == []
    assert said(recipe(beta=0.05, base="c" * 64), [*low, *high]) == []


def test_few_rows_and_a_high_rate_are_said_likewise_and_a_setting_that_is_no_worse_than_others_is_not() -> None:
    small = [run(n, "loss_spike" if n < 7 else None, datasets=["d" * 64]) for n in range(8)]
    large = [run(n) for n in range(20, 30)]
    assert said(recipe(datasets=["d" * 64]), [*small, *large]) == [
        "runs with a learning rate of 0.001 or more: 7 of 18 (20% to 61%) ended at a cliff",
        "runs with a beta of 0.1 or less: 7 of 18 (20% to 61%) ended at a cliff",
        "runs on 60 rows or fewer: 7 of 8 (53% to 98%) ended at a cliff; of others 0 of 10 (0% to 28%)",
    ]
    fast = [run(n, "diverged" if n % 2 else None, learning_rate=0.01) for n in range(10)]
    slow = [run(n, "diverged" if n % 2 else None) for n in range(20, 30)]
    assert [one.split(":")[0] for one in said(recipe(learning_rate=0.01), [*fast, *slow])] == [
        "runs with a beta of 0.1 or less",
        "runs on 900 rows or fewer",
    ]
    assert len(said(recipe(datasets=["f" * 64]), small)) == 2  # nobody knows how many rows those are


def test_nothing_is_said_of_too_few_runs_of_runs_that_broke_otherwise_or_of_one_recipe_run_again() -> None:
    bad = [run(n, "chosen_fell") for n in range(7)]
    assert said(recipe(), bad) == []
    assert said(recipe(), [*bad, *(run(n, "out_of_memory") for n in range(20, 40))]) == []
    assert said(recipe(), [*bad, run(3, "chosen_fell")]) == []
    assert len(said(recipe(), [*bad, run(8, "chosen_fell")])) == 3


def test_the_page_says_how_often_a_setting_is_warned_of_whatever_its_share_of_cliffs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    rows = re.findall(r"^\| (\d+) runs \| (.+) \|$", page, flags=re.MULTILINE)
    assert [int(n) for n, _ in rows] == [7, 8, 20, 60]
    for n, cells in ((int(n), cells.split(" | ")) for n, cells in rows):
        heard = [k for k in range(n + 1) if is_said(Record("", k, n, 0, 0))]
        for p, cell in zip((0.1, 0.2, 0.5, 0.8), cells, strict=True):
            share = math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in heard)
            assert cell == f"{share:.1%}", (n, p)
