"""The judge executor: answers, both orders of each pair, the words of people, and what the report says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.engine_relay import EngineRelay
from tests.integration.executors.running import SUITE, Bench, Ended, bare, write_rows

from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK, EngineDoor
from loradeck.schemas.jobs import JudgeSpec
from loradeck.schemas.judge import SuiteJudge
from loradeck.schemas.judge_report import JudgeReport

RELEASE, LIVE, PEOPLE = "a" * 64, "b" * 64, "d" * 64
RUBRIC = "It is kind."
SETTINGS = SuiteJudge(suite=SUITE, rubric=RUBRIC, address="house", people=(PEOPLE,))
BUILD = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")
ITEMS = [{"id": f"i{n}", "prompt": f"question {n}", "answer": "-"} for n in range(8)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return bare(tmp_path)


def said(text: str, model: str = "m") -> dict[str, Any]:
    return {"body": {"model": model, "choices": [{"message": {"content": text}}]}}


def candidate(question: dict[str, Any]) -> dict[str, Any]:
    """Kind, with more words, on the first four of eight; equal to the live release on the seventh."""
    number = int(question["body"]["messages"][-1]["content"].split()[-1])
    return said("so kind and long" if number < 4 else "same" if number == 7 else "rude")


def live(question: dict[str, Any]) -> dict[str, Any]:
    number = int(question["body"]["messages"][-1]["content"].split()[-1])
    return said("same" if number == 7 else "rude" if number < 2 else "kind")


def kind_judge(question: dict[str, Any]) -> dict[str, Any]:
    """Passes what is kind, prefers it in pairs, and the first one where both are."""
    assert question["body"]["temperature"] == 0
    shown = json.loads(question["body"]["messages"][0]["content"].split("\n\n")[-1])
    assert f"Rubric:\n{RUBRIC}" in question["body"]["messages"][0]["content"]
    if "answer" in shown:
        return said("PASS" if "kind" in shown["answer"] else "FAIL", "house-4")
    first, second = "kind" in shown["first"], "kind" in shown["second"]
    return said("FIRST" if first >= second else "SECOND", "house-4")


def people(path: Path, kind: str, rubric: str = RUBRIC, asks: str = "question") -> Path:
    """Sixty items, half of them kind, each judged by two people as the judge does."""
    rows: list[dict[str, Any]] = [{"rubric": "kind@1", "text": rubric}]
    rows += [{"rater": rater, "qualifications": []} for rater in ("x", "y")]
    for n in range(60):
        texts = ("kind", "rude") if n % 2 else ("rude", "kind")
        shown = {"answer": texts[0]} if kind == "answer" else {"a": texts[0], "b": texts[1]}
        choice = ("good" if n % 2 else "bad") if kind == "answer" else ("a" if n % 2 else "b")
        rows.append({"item": f"i{n}", "prompt": f"{asks} {n % 8}", **shown})
        of = {"item": f"i{n}", "rubric": "kind@1", "choice": choice, "at": "2026-01-01T00:00:00Z"}
        rows += [{**of, "rater": rater} for rater in ("x", "y")]
    return write_rows(path, rows)


@contextmanager
def doors(bench: Bench) -> Iterator[dict[str, EngineDoor]]:
    asked = {RELEASE: candidate, LIVE: live, SETTINGS.digest: kind_judge}
    with chdir(bench.root):
        relays = {name: EngineRelay(Path(f"{n}.sock"), answer) for n, (name, answer) in enumerate(asked.items())}
        yield {
            name: EngineDoor(replica="n1", socket=f"{n}.sock", build=BUILD, scores=False)
            for n, name in enumerate(relays)
        }
        for n, relay in enumerate(relays.values()):
            relay.listener.close()
            Path(f"{n}.sock").unlink()


def judged(bench: Bench, judgements: Path, **changes: Any) -> Ended:
    items = write_rows(bench.root / "items.jsonl", ITEMS)
    spec = JudgeSpec(tenant="acme", release=RELEASE, against=LIVE, judge=SETTINGS).model_copy(update=changes)
    with doors(bench) as opened:
        return bench.run(spec, {SUITE: str(items), PEOPLE: str(judgements)}, doors=opened)


@pytest.mark.parametrize("kind", ["answer", "pair"])
def test_answers_are_judged_alone_and_in_both_orders_and_the_judge_is_held_against_people(
    bench: Bench, kind: str
) -> None:
    ended = judged(bench, people(bench.root / "people.jsonl", kind))
    assert ended.status == EXIT_OK, ended.last
    report = JudgeReport.model_validate_json((ended.out / "report.json").read_bytes())
    assert [item.passed for item in report.items] == [True] * 4 + [False] * 4
    assert [item.pair for item in report.items] == [*["won"] * 2, *["flipped"] * 2, *["lost"] * 3, "tie"]
    assert (report.passed.k, report.passed.n, report.unclear) == (4, 8, 0)
    assert (report.flipped.k, report.flipped.n) == (2, 7)
    assert (report.first.k, report.first.n) == (2 + 4 + 3, 14)
    assert (report.longer.k, report.longer.n) == (2, 2), "of equally long answers none is longer"
    assert report.length.r == pytest.approx(1.0)
    (held,) = report.people
    assert (held.kind, held.agreement.alpha, held.agreement.n) == (kind, 1.0, 60)
    assert held.agreement.low < 1.0
    assert (report.judge, report.against, report.engine) == (SETTINGS.digest, LIVE, BUILD)
    assert report.model.startswith("house-4 (")
    assert [item.words for item in report.items] == [3] * 4 + [0] * 4
    assert held.suite == SUITE


def test_without_another_release_there_are_no_pairs(bench: Bench) -> None:
    ended = judged(bench, people(bench.root / "people.jsonl", "answer"), against=None)
    report = JudgeReport.model_validate_json((ended.out / "report.json").read_bytes())
    assert {item.pair for item in report.items} == {None}
    assert report.flipped.n == report.first.n == 0


def test_people_who_had_another_rubric_are_not_held_against_it(bench: Bench) -> None:
    ended = judged(bench, people(bench.root / "people.jsonl", "answer", rubric="It is short."))
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")
    assert "rubric" in ended.last.message


def test_people_who_judged_answers_to_other_questions_are_not_held_against_it(bench: Bench) -> None:
    ended = judged(bench, people(bench.root / "people.jsonl", "answer", asks="another"))
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")
    assert "nobody has judged answers to the questions of the judge's suite" in ended.last.message


def test_items_of_people_that_ask_something_else_are_left_out(bench: Bench) -> None:
    path = people(bench.root / "people.jsonl", "answer")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row.get("item") in ("i1", "i2") and "prompt" in row:
            row["prompt"] = "something else"
    report = JudgeReport.model_validate_json((judged(bench, write_rows(path, rows)).out / "report.json").read_bytes())
    assert [one.agreement.n for one in report.people] == [58]
