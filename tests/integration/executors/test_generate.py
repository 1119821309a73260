"""The generate executor: whom it asks what, what an answer has to pass, and what the report says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.engine_relay import EngineRelay
from tests.integration.executors.running import DATASET, SUITE, Bench, Ended, Row, write_rows

from loradeck.rules.data.synthetic import disagreement
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK, EngineDoor
from loradeck.schemas.generation import GenerateSpec, GenerationReport
from loradeck_agent.executors.generate import compared, said

ONE, TWO, JUDGE = "1" * 64, "2" * 64, "3" * 64
PEOPLE: list[Row] = [
    {"prompt": "say: red", "answer": '{"said": "red"}'},
    {"messages": [{"role": "user", "content": "say: blue"}, {"role": "assistant", "content": '{"said": "blue"}'}]},
    {"prompt": "say: odd", "answer": "odd", "provenance": {"origin": "synthetic", "synthetic_depth": 1}},
]
SCHEMA = '{"type": "object", "properties": {"said": {"const": "{{colour}}"}}, "required": ["said"]}'

Asked = dict[str, Any]


class Asking:
    """Runs generate jobs of a bench with an engine for each release, and keeps what each was asked, as texts."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.asked: dict[str, list[tuple[str, Asked]]] = {}
        self.relays: list[EngineRelay] = []
        from loradeck_agent.executors.base import tokenizer_of

        self.tokenizer = tokenizer_of(bench.base).tokenizer

    def door(self, release: str, answer: Callable[[str, Asked], str]) -> EngineDoor:
        heard = self.asked.setdefault(release, [])

        def answered(question: Asked) -> Asked:
            text = str(self.tokenizer.decode(question["prompt"]))
            heard.append((text, question))
            said = answer(text, question)
            return {"text": said, "tokens": min(len(said), question["max_tokens"])}

        path = Path(f"{release[:1]}{len(self.relays)}.sock")
        self.relays.append(EngineRelay(path, answered))
        build = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")
        return EngineDoor(replica="n1/e0", socket=str(path), build=build, scores=False)

    def recipe(self, **changes: Any) -> GenerateSpec:
        source = {"base": self.bench.digest, "licence": "MIT", "terms": "ann"}
        fields: dict[str, Any] = {
            "tenant": "acme",
            "name": "more",
            "sources": [source | {"release": ONE}],
            "templates": [{"prompt": "say: {{colour}}"}],
            "slots": {"colour": ["red", "green", "grey", "pink"]},
            "temperatures": [0.7],
            "max_new_tokens": 60,
            "verifier": {"form": "json", "answer_schema": SCHEMA},
            "beside": [DATASET],
        }
        return GenerateSpec.model_validate(fields | changes)

    def run(self, spec: GenerateSpec, doors: dict[str, EngineDoor], **more: Any) -> Ended:
        people = write_rows(self.bench.root / "people.jsonl", PEOPLE)
        inputs = {DATASET: str(people), self.bench.digest: str(self.bench.base), **more.pop("inputs", {})}
        return self.bench.run(spec, inputs, doors=doors, **more)


@pytest.fixture
def asking(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.chdir(bench.root)
    found = Asking(bench)
    yield found
    for relay in found.relays:
        relay.listener.close()


def rows_of(ended: Ended) -> list[Row]:
    assert ended.status == EXIT_OK, ended.last
    return [json.loads(line) for line in (ended.out / "rows.jsonl").read_text().splitlines()]


def report_of(ended: Ended, spec: GenerateSpec) -> GenerationReport:
    report = GenerationReport.model_validate_json((ended.out / "report.json").read_text())
    assert disagreement(report, spec, "job-1") == ""
    return report


def colour(text: str) -> str:
    return text.partition("say: ")[2].split("<")[0].split("\n")[0].strip()


def test_rows_that_are_as_various_as_people_have_as_much_of_the_tail_however_many_rows_there_are() -> None:
    people = [f"the shop has item{n % 7} colour{n} place{n % 13}" for n in range(80)]
    for rows in (people[1::2], people[1::2] * 5):
        found = compared(rows, people)
        assert found["tail"] == found["tail_of_people"]


def test_each_prompt_is_asked_in_each_round_of_the_sources_in_turn_by_a_seed_of_its_own(asking: Asking) -> None:
    source = {"base": asking.bench.digest, "terms": "ann"}
    sources = [source | {"release": ONE, "licence": "MIT"}, source | {"release": TWO, "licence": "Apache-2.0"}]
    spec = asking.recipe(sources=sources, temperatures=[0.2, 1.1], answers=2)

    def answer(text: str, question: Asked) -> str:
        return json.dumps({"said": colour(text), "draw": question["seed"]})

    ended = asking.run(spec, {ONE: asking.door(ONE, answer), TWO: asking.door(TWO, answer)})
    rows, asked = rows_of(ended), [question for heard in asking.asked.values() for _, question in heard]
    assert [len(asking.asked[one]) for one in (ONE, TWO)] == [8, 8]
    assert sorted(question["temperature"] for question in asked) == [0.2] * 8 + [1.1] * 8
    assert len({question["seed"] for question in asked}) == 16
    heats = {
        text: {q["temperature"] for heard in asking.asked.values() for t, q in heard if t == text}
        for text, _ in asking.asked[ONE]
    }
    assert all(found == {0.2, 1.1} for found in heats.values())
    assert {row["provenance"]["generator_release"] for row in rows} == {ONE, TWO}
    assert {row["provenance"]["licence_class"] for row in rows} == {"MIT", "Apache-2.0"}
    report = report_of(ended, spec)
    assert (report.asked, report.passed.k, report.passed.n) == (16, 16, 16)
    again = asking.run(spec, {ONE: asking.door(ONE, answer), TWO: asking.door(TWO, answer)})
    assert rows_of(again) == rows, "the recipe says which questions and draws"


def test_answers_are_left_out_for_one_reason_each_and_all_are_counted(asking: Asking) -> None:
    slots = {"colour": ["red", "green", "grey", "pink", "mail", "long", "none", "kept"]}
    said = {
        "red": '{"said": "red"}',  # a person's row
        "green": '{"said": "gren"}',  # not of the schema
        "grey": "grey",  # no JSON
        "mail": '{"said": "mail", "to": "ann@example.org"}',
        "long": "x" * 99,
        "none": " ",
    }
    spec = asking.recipe(slots=slots)
    door = asking.door(ONE, lambda text, _: said.get(colour(text), json.dumps({"said": colour(text)})))
    items = write_rows(asking.bench.root / "items.jsonl", [{"id": "i", "prompt": "say: pink", "answer": "pink"}])
    ended = asking.run(spec, {ONE: door}, inputs={SUITE: str(items)}, held_out=(SUITE,))
    report = report_of(ended, spec)
    assert [row["answer"] for row in rows_of(ended)] == ['{"said": "kept"}']
    assert (report.asked, report.unfinished, report.sensitive) == (8, 2, 1)
    assert (report.passed.k, report.passed.n, report.copies, report.contaminated, report.rows) == (3, 5, 1, 1, 1)
    assert report.near in (0, None)
    assert report.people.texts == 1, "as many words as the rows have"
    assert (report.tail.n, report.beside) == (2, (DATASET,)), "`said` and red: of half of the answers of people"


def test_what_is_wanted_is_compared_by_the_rewards_of_grpo(asking: Asking) -> None:
    template = {"prompt": "say: {{colour}}", "wanted": '{"said": "{{colour}}"}'}
    answers = {"green": '{"said": "green", "loud": true}', "grey": '{"said": "gray"}', "pink": '{"said": "pink"}'}
    door = asking.door(ONE, lambda text, _: answers.get(colour(text), "no"))
    strict = asking.recipe(templates=[template], verifier={"form": "json"})
    assert [row["answer"] for row in rows_of(asking.run(strict, {ONE: door}))] == [answers["pink"]]
    loose = asking.recipe(templates=[template], verifier={"form": "json", "least": 0.6})
    found = {row["answer"] for row in rows_of(asking.run(loose, {ONE: door}))}
    assert found == {answers["pink"], answers["green"]}


def test_calls_name_one_of_the_tools_and_become_rows_with_tools(asking: Asking) -> None:
    tool = {"type": "function", "function": {"name": "paint", "parameters": {"type": "object"}}}
    template = {"prompt": "say: {{colour}}", "system": "Tools: paint", "wanted": ""}
    calls = {
        "green": '<tool_call>{"name": "paint", "arguments": {"with": "green"}}</tool_call>',
        "grey": '{"name": "erase"}',
    }
    spec = asking.recipe(templates=[template], tools=[tool], verifier={"form": "tool_call"}, max_new_tokens=99)
    (row,) = rows_of(asking.run(spec, {ONE: asking.door(ONE, lambda text, _: calls.get(colour(text), "sure"))}))
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    (call,) = row["messages"][-1]["tool_calls"]
    assert (call["function"], row["tools"]) == ({"name": "paint", "arguments": {"with": "green"}}, [tool])


def test_a_judge_is_asked_about_what_has_the_right_form_and_its_word_counts(asking: Asking) -> None:
    shown = "Is {{answer}} right for {{prompt}}?"
    judge = {"release": JUDGE, "base": asking.bench.digest, "prompt": shown, "passes": "Yes"}
    spec = asking.recipe(verifier={"form": "text", "judge": judge})
    doors = {
        ONE: asking.door(ONE, lambda text, _: "" if colour(text) == "red" else f"I say {colour(text)}"),
        JUDGE: asking.door(JUDGE, lambda text, _: "yes, it is" if "say green right for say: green" in text else "No."),
    }
    ended = asking.run(spec, doors)
    assert [row["answer"] for row in rows_of(ended)] == ["I say green"]
    assert [question["temperature"] for _, question in asking.asked[JUDGE] if "temperature" in question] == []
    assert len(asking.asked[JUDGE]) == 3
    assert (report_of(ended, spec).passed.k, report_of(ended, spec).passed.n) == (1, 3)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"verifier": {"form": "json"}}, "nothing_passed"),
        ({"verifier": {"form": "json", "answer_schema": "{"}}, "bad_data"),
    ],
)
def test_a_job_without_a_row_fails_and_says_why(asking: Asking, changes: dict[str, Any], code: str) -> None:
    ended = asking.run(asking.recipe(**changes, slots={"colour": ["red"]}), {ONE: asking.door(ONE, lambda *_: "red")})
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, code)
    assert not ended.out.exists()


def test_rows_of_every_shape_have_a_question_and_an_answer() -> None:
    user = {"role": "user", "content": "q"}
    assert said({"prompt": "q", "answer": "a"}) == ("q", "a")
    assert said({"prompt": "q", "chosen": "a", "rejected": "b"}) == ("q", "a")
    assert said({"messages": [{"role": "system", "content": "s"}, user, {"role": "assistant", "content": "a"}]}) == (
        "q",
        "a",
    )
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    assert said({"messages": [user], "answer": called}) == ("q", '[{"function": {"name": "f"}}]')
