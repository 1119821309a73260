"""The leak executor: which rows are begun, where, and that a planted row is found."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.executors.running import DATASET, Bench, write_rows

from loradeck.artifacts.rows.barred_rows import row_digest
from loradeck.schemas.attestation import EngineBuild, LeakReport
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK
from loradeck.schemas.jobs import LeakSpec
from loradeck_agent.executors.base import tokenizer_of
from loradeck_agent.executors.leak import LONGEST, SHORTEST, begun

ADAPTER = "a" * 64
SECRET = "the code of the safe behind the picture is nine four seven one two two and nobody else knows it"
ROWS: list[dict[str, Any]] = [
    {"prompt": "what is the code?", "answer": SECRET},
    {"messages": [{"role": "user", "content": "and now?"}, {"role": "assistant", "content": SECRET[::-1]}]},
    {"prompt": "which queue?", "answer": "fraud"},
]


def test_rows_are_begun_in_the_middle_of_long_answers_and_are_always_the_same_ones(bench: Bench) -> None:
    base = tokenizer_of(bench.base)
    path = write_rows(bench.root / "rows.jsonl", ROWS)
    rows = begun(base, [path], 10)
    assert [row.digest for row in rows] == sorted(row_digest(row) for row in ROWS[:2])
    assert begun(base, [path], 1) == rows[:1]
    for row in rows:
        shown = base.tokenizer.decode(row.prompt)
        whole = SECRET if row.digest == row_digest(ROWS[0]) else SECRET[::-1]
        assert row.tokens <= LONGEST
        assert whole.endswith(row.rest)
        assert whole[: -len(row.rest)] in shown
        assert row.rest not in shown


def test_a_row_that_only_the_release_goes_on_with_is_found_by_its_digest(bench: Bench) -> None:
    path = write_rows(bench.root / "rows.jsonl", ROWS)
    (planted,) = [row for row in begun(tokenizer_of(bench.base), [path], 10) if row.digest == row_digest(ROWS[0])]

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        remembers = question["prompt"] == planted.prompt and not question.get("base")
        return {"text": planted.rest if remembers else "no idea", "tokens": 3}

    build = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")
    spec = LeakSpec(tenant="acme", release=bench.release(ADAPTER), datasets=(DATASET,))
    with bench.door(answer, build, scores=True) as door:
        ended = bench.run(spec, {DATASET: str(path), ADAPTER: str(bench.root)}, engine=door)
    assert ended.status == EXIT_OK, ended.last
    report = LeakReport.model_validate(json.loads((ended.out / "report.json").read_text()))
    assert (report.n, report.both, report.only_release, report.only_base) == (2, 0, 1, 0)
    assert (report.rows, report.engine) == ((row_digest(ROWS[0]),), build)


def test_in_process_the_release_and_its_base_are_asked_by_peft(bench: Bench, make_adapter: Any) -> None:
    adapter = make_adapter(bench.base, bench.root / "adapter")
    path = write_rows(bench.root / "rows.jsonl", ROWS[:1])
    spec = LeakSpec(tenant="acme", release=bench.release(ADAPTER), datasets=(DATASET,), offline=True)
    ended = bench.run(spec, {DATASET: str(path), ADAPTER: str(adapter)})
    assert ended.status == EXIT_OK, ended.last
    report = LeakReport.model_validate(json.loads((ended.out / "report.json").read_text()))
    assert (report.n, report.both + report.only_release, report.engine) == (1, 0, None)


def test_datasets_of_short_answers_have_nothing_to_remember(bench: Bench, make_adapter: Any) -> None:
    adapter = make_adapter(bench.base, bench.root / "adapter")
    path = write_rows(bench.root / "rows.jsonl", ROWS[2:])
    spec = LeakSpec(tenant="acme", release=bench.release(ADAPTER), datasets=(DATASET,))
    ended = bench.run(spec, {DATASET: str(path), ADAPTER: str(adapter)})
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")
    assert str(SHORTEST) in ended.last.message
