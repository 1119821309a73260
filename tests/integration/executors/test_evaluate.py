"""The evaluate executor, on a random two-layer model."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.integration.executors.running import SUITE, Bench, Ended, write_rows

from loradeck.artifacts import scan
from loradeck.schemas.attestation import CanaryRecord, EngineBuild, EvaluationReport
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK, ExecutorEventType
from loradeck.schemas.jobs import EvaluateSpec
from loradeck.schemas.manifest import Origin, Provenance, SuiteManifest
from loradeck.schemas.suite import SuiteItem
from loradeck_agent.embedded.batch import Output, TokenOut
from loradeck_agent.embedded.server import embedded_build
from loradeck_agent.executors.evaluation.in_process import greedy
from loradeck_agent.serving.engine_api import CANARY_TOKENS, prompt_digest

ADAPTER = "a" * 64
CANARIES = tuple(({"role": "user", "content": text},) for text in ("one", "a longer prompt, number two", "3"))
ITEMS = [{"id": f"i{n}", "prompt": "word " * n, "answer": "?"} for n in (3, 1, 5, 2, 4)]


class Collected:
    """Tokens of one answer of the embedded engine."""

    def __init__(self) -> None:
        self.tokens: list[TokenOut] = []
        self.ended = threading.Event()

    def add(self, output: Output) -> None:
        self.tokens.extend(output.tokens)
        if output.finish:
            self.ended.set()


def report_of(ended: Ended) -> EvaluationReport:
    assert ended.status == EXIT_OK, ended.last
    return EvaluationReport.model_validate_json((ended.out / "report.json").read_text())


def record_of(ended: Ended, name: str = "canary.json") -> CanaryRecord:
    return CanaryRecord.model_validate_json((ended.out / name).read_text())


@pytest.fixture
def adapter(bench: Bench, make_adapter: Any) -> tuple[str, Path]:
    return ADAPTER, make_adapter(bench.base, bench.root / "adapter")


def test_it_counts_exact_answers_item_by_item_in_the_suites_order(bench: Bench, adapter: tuple[str, Path]) -> None:
    first = report_of(bench.evaluate(ITEMS, adapter, max_new_tokens=6))
    assert [item.id for item in first.items] == ["i3", "i1", "i5", "i2", "i4"]
    assert (first.n, first.exact, first.valid) == (5, 0, 0)
    known = [{**item, "answer": " " + got.answer} for item, got in zip(ITEMS, first.items, strict=True)]
    known[2]["answer"] = "something else"
    for batch in (1, 2, 8):
        ended = bench.evaluate(known, adapter, max_new_tokens=6, batch=batch)
        report = report_of(ended)
        assert [item.exact for item in report.items] == [True, True, False, True, True]
        assert [item.answer for item in report.items] == [item.answer for item in first.items]
        assert report.exact == 4 == ended.last.data["exact"]
        assert [event.step for event in ended.of_type(ExecutorEventType.PROGRESS)][-1] == 5


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        ('{"queue": "fraud"}', True),
        (' {"queue":"fraud"}\n', True),
        ('{"queue": "other"}', False),
        ('{"queue": "fraud", "more": 1}', False),
        ('{"queue": "fraud"', False),
        ("queue=fraud;urgent=yes", False),
        ("", False),
    ],
)
def test_an_answer_is_valid_when_it_is_json_and_satisfies_the_schema(answer: str, valid: bool) -> None:
    from loradeck_agent.executors.evaluation.scoring import is_valid

    schema = {"type": "object", "properties": {"queue": {"enum": ["fraud"]}}, "additionalProperties": False}
    assert is_valid(answer, schema) is valid


def test_the_schema_comes_from_the_suites_manifest_which_must_be_the_suites(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "suite"
    folder.mkdir()
    write_rows(folder / "items.jsonl", ITEMS)
    manifest = SuiteManifest(
        tenant="acme",
        name="s",
        items=5,
        files=scan(folder),
        answer_schema='{"type": "object"}',
        provenance=Provenance(
            origin=Origin.SYNTHETIC, synthetic_depth=0, consent="own", licence_class="Apache-2.0", purpose=("evaluate",)
        ),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())

    def run(digest: str) -> Ended:
        spec = EvaluateSpec(tenant="acme", release=bench.release(None), suite=digest, max_new_tokens=2)
        return bench.run(spec, {digest: str(folder)})

    assert report_of(run(manifest.digest)).suite == manifest.digest
    other = run(SUITE)
    assert (other.status, other.last.code) == (EXIT_BAD_SPEC, "manifest_mismatch")


def test_what_all_prompts_begin_with_is_computed_once_and_changes_no_answer(tiny_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    begin = list(b"the same beginning")
    prompts = [[*begin, *b"a"], [*begin, *b"a and more"], [*begin, *b"other"], begin]
    computed: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, __, named: computed.append(named["input_ids"].shape), with_kwargs=True)
    together = greedy(model, prompts, 6, eos=2, pad=0)
    shared = len(begin) - 1
    assert computed[:2] == [(1, shared), (4, len(prompts[1]) - shared)]
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = greedy(model, [prompt], 6, eos=2, pad=0)
        assert answer.tokens == alone.tokens
        assert answer.margins == pytest.approx(alone.margins, abs=1e-4)


def test_canaries_are_recorded_for_the_release_and_for_the_base_alone(bench: Bench, adapter: tuple[str, Path]) -> None:
    ended = bench.evaluate(ITEMS[:1], adapter, CANARIES, max_new_tokens=2)
    own, base = record_of(ended), record_of(ended, "canary-base.json")
    assert (own.release, base.release) == (bench.release(ADAPTER), bench.release(None))
    assert own.build == base.build == embedded_build()
    assert [item.prompt for item in own.items] == [prompt_digest(messages) for messages in CANARIES]
    for item in (*own.items, *base.items):
        assert len(item.tokens) == len(item.margins) == CANARY_TOKENS or item.tokens[-1] == 2
        assert all(margin >= 0 for margin in item.margins)
    assert [item.tokens for item in own.items] != [item.tokens for item in base.items]
    alone = record_of(bench.evaluate(ITEMS[:1], None, CANARIES, max_new_tokens=2))
    assert alone.release == base.release
    for a, b in zip(alone.items, base.items, strict=True):
        assert a.tokens == b.tokens
        assert a.margins == pytest.approx(b.margins, abs=1e-4)


def test_the_embedded_engine_answers_canaries_with_the_recorded_tokens_and_margins(
    bench: Bench, adapter: tuple[str, Path]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from loradeck_agent.embedded.batch import Sampling, Sequence
    from loradeck_agent.embedded.inference import BASE, Inference

    ended = bench.evaluate(ITEMS[:1], adapter, CANARIES, max_new_tokens=2)
    records = {ADAPTER: record_of(ended), "base": record_of(ended, "canary-base.json")}
    tokenizer = AutoTokenizer.from_pretrained(bench.base)
    inference = Inference(AutoModelForCausalLM.from_pretrained(bench.base).eval().requires_grad_(False), 0, 1)
    inference.start()
    try:
        handle, installed = inference.install(inference.read(adapter[1]))
        installed.result(30)
        asked: list[tuple[str, int, Collected]] = []
        for name, own in ((ADAPTER, handle), ("base", BASE)):
            for number, messages in enumerate(CANARIES):
                outputs = Collected()
                prompt = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
                sampling = Sampling(CANARY_TOKENS, logprobs=2)
                inference.submit(Sequence(list(prompt), own, sampling, outputs.add, str, frozenset({2})))
                asked.append((name, number, outputs))
        assert all(outputs.ended.wait(60) for _, _, outputs in asked)
    finally:
        inference.stop()
    for name, number, outputs in asked:
        tokens = outputs.tokens
        recorded = records[name].items[number]
        assert tuple(token.id for token in tokens) == recorded.tokens
        margins = [token.top[0][1] - token.top[1][1] for token in tokens]
        assert margins == pytest.approx(recorded.margins, abs=1e-3)


def test_an_adapter_with_a_missing_tensor_is_refused_where_peft_would_only_warn(
    bench: Bench, adapter: tuple[str, Path]
) -> None:
    path = adapter[1] / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path)
    ended = bench.evaluate(ITEMS, adapter)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_adapter")
    assert "missing" in ended.last.message
    assert not ended.out.exists()


def test_a_release_that_base_and_adapter_do_not_make_is_refused(bench: Bench, adapter: tuple[str, Path]) -> None:
    spec = EvaluateSpec(tenant="acme", release=bench.release("b" * 64), suite=SUITE)
    items = str(write_rows(bench.root / "items.jsonl", ITEMS))
    ended = bench.run(spec, {SUITE: items, ADAPTER: str(adapter[1])})
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_spec")


@pytest.mark.parametrize(
    "items", [[], [{"prompt": "x", "answer": "y"}], [{"id": "a", "prompt": "x", "answer": "y"}] * 2, [{"id": "a"}]]
)
def test_a_suite_with_faulty_items_is_refused(bench: Bench, items: list[dict[str, str]]) -> None:
    ended = bench.evaluate(items)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")


def test_an_out_of_an_earlier_try_is_replaced_whole(bench: Bench) -> None:
    items = str(write_rows(bench.root / "items.jsonl", ITEMS[:1]))
    spec = EvaluateSpec(tenant="acme", release=bench.release(None), suite=SUITE, max_new_tokens=1)
    out = bench.root / "given"
    out.mkdir()
    (out / "leftover").write_text("x")
    bench.run(spec, {SUITE: items}, out=str(out))
    assert {path.name for path in out.iterdir()} == {"report.json", "canary.json"}
    assert json.loads((out / "report.json").read_text())["n"] == 1


# ---- by the engine that serves ---------------------------------------------------------------------------


def test_the_engine_that_serves_answers_and_the_base_is_not_even_loaded(
    bench: Bench, adapter: tuple[str, Path]
) -> None:
    asked: list[dict[str, Any]] = []

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question)
        if "last" in question:
            return {"logprob": -float(sum(question["prompt"][-question["last"] :])), "ms": 1.0}
        return {"text": "<think>\n\n</think>\n\nyes", "tokens": 1, "ms": 2.5}

    choice = {"id": "c", "kind": "choice", "prompt": "p", "choices": ["zz", "a"], "answer": "a"}
    items = [{"id": "x", "prompt": "one", "answer": "yes"}, choice, {"id": "y", "prompt": "two", "answer": "no"}]
    build = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")
    suite = {SUITE: str(write_rows(bench.root / "asked.jsonl", items)), adapter[0]: str(adapter[1])}
    spec = EvaluateSpec(tenant="acme", release=bench.release(adapter[0]), suite=SUITE, max_new_tokens=9)
    with bench.door(answer, build, scores=True) as door:
        ended = bench.run(spec, suite, engine=door, canaries=CANARIES)
    report = report_of(ended)
    assert [(item.id, item.answer, item.exact) for item in report.items] == [
        ("x", "yes", True),
        ("c", "a", True),
        ("y", "yes", False),
    ]
    assert (report.engine, report.offline, report.items[0].ms) == (build, 0, 2.5)
    assert report.speed is None, "choices are read, and the time is theirs, too"
    assert sorted(question.get("max_tokens", 0) for question in asked) == [0, 0, 9, 9]
    assert not (ended.out / "canary.json").exists(), "the engine's canaries were recorded when it was made ready"
    assert "loading the base" not in [event.message for event in ended.events]


def test_a_report_by_an_engine_says_how_fast_it_wrote_and_with_how_many_questions_at_once(bench: Bench) -> None:
    items = [{"id": str(n), "prompt": f"one {n}", "answer": "yes"} for n in range(5)]
    build = EngineBuild(engine="embedded", device="cpu", dtype="float32")
    spec = EvaluateSpec(tenant="acme", release=bench.release(None), suite=SUITE, batch=2)
    with bench.door(lambda _: {"text": "yes", "tokens": 3, "ms": 2.5}, build, scores=False) as door:
        ended = bench.run(spec, {SUITE: str(write_rows(bench.root / "asked.jsonl", items))}, engine=door)
    speed = report_of(ended).speed
    assert speed is not None
    assert (speed.tokens, speed.at_once) == (15, 2)
    assert speed.seconds > 0
    assert report_of(bench.evaluate(items)).speed is None, "in process nothing is served"


def test_choices_are_scored_in_process_where_the_engine_says_no_log_probabilities(bench: Bench) -> None:
    choice = {"id": "c", "kind": "choice", "prompt": "p", "choices": ["zz", "a"], "answer": "a"}
    items = [{"id": "x", "prompt": "one", "answer": "yes"}, choice]
    suite = {SUITE: str(write_rows(bench.root / "asked.jsonl", items))}
    spec = EvaluateSpec(tenant="acme", release=bench.release(None), suite=SUITE)
    with bench.door(lambda _: {"text": "yes", "tokens": 1}, embedded_build("bfloat16"), scores=False) as door:
        report = report_of(bench.run(spec, suite, engine=door))
    assert (report.engine, report.offline) == (door.build, 1)
    assert [item.acc_norm is not None for item in report.items] == [False, True]


# ---- kinds -----------------------------------------------------------------------------------------------


def test_a_suite_of_every_kind_is_scored_item_by_item_and_timed(bench: Bench, adapter: tuple[str, Path]) -> None:
    tool = {"name": "word", "parameters": {"type": "object"}}
    kinds = [
        {"id": "json", "kind": "json", "prompt": "word", "schema": {"type": "object"}},
        {"id": "calls", "kind": "tool_call", "prompt": "the tool word", "tools": [tool], "call": {"name": "word"}},
        {"id": "no call", "kind": "tool_call", "prompt": "the tool word", "tools": [tool], "call": None},
        {"id": "refuses", "kind": "refusal", "prompt": "word word"},
        {"id": "answers", "kind": "refusal", "prompt": "word word", "refuse": False},
        {"id": "choice", "kind": "choice", "prompt": "word", "choices": ["word", "one two", "3"], "answer": "3"},
    ]
    report = report_of(bench.evaluate([*ITEMS[:1], *kinds], adapter, max_new_tokens=4))
    assert [item.id for item in report.items] == ["i3", *(str(row["id"]) for row in kinds)]
    assert [item.kind.value for item in report.items[1:]] == [row["kind"] for row in kinds]
    by_id = {item.id: item for item in report.items}
    assert not by_id["json"].exact
    assert by_id["refuses"].exact is not by_id["answers"].exact
    assert by_id["calls"].why
    assert by_id["choice"].answer in ("word", "one two", "3")
    assert {item.id for item in report.items if item.acc_norm is not None} == {"choice"}
    assert all(item.ms is not None and item.ms > 0 for item in report.items)
    assert all(item.margin is not None and item.margin >= 0 for item in report.items)
    assert report.exact == sum(item.exact for item in report.items)


def test_the_likeliest_choice_is_that_of_the_tokens_one_by_one(bench: Bench) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from loradeck_agent.executors.evaluation.in_process import likelihoods

    model = AutoModelForCausalLM.from_pretrained(bench.base).eval()
    prompt, answers = [5, 9, 12], [[7], [8, 9, 10], [11, 4]]
    expected = []
    for answer in answers:
        logs = []
        for at, token in enumerate(answer):
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *answer[:at]]])).logits[0, -1]
            logs.append(float(torch.log_softmax(logits, -1)[token]))
        expected.append(sum(logs))
    assert likelihoods(model, prompt, answers, pad=0) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="without tokens"):
        likelihoods(model, prompt, [[7], []], pad=0)


def test_white_space_before_a_choice_counts_to_it_and_tokens_are_those_of_the_whole_text(tiny_base: Path) -> None:
    """As lm-eval's `_encode_pair` cuts a context from its continuation."""
    from loradeck_agent.executors.base import read_base
    from loradeck_agent.executors.evaluation.in_process import choice_tokens

    base = read_base(tiny_base)
    row = {"id": "a", "kind": "choice", "prompt": "word", "choices": ["one", "two more"], "answer": "one"}
    item = SuiteItem.model_validate(row)
    text = base.prompt_text([{"role": "user", "content": "word"}])
    prompt, choices = choice_tokens(base, item)

    def tokens(text: str) -> list[int]:
        return list(base.tokenizer(text, add_special_tokens=False)["input_ids"])

    assert prompt == tokens(text.rstrip())
    assert len(tokens(text)) > len(prompt), "the template ends with white space, or this tests nothing"
    assert [prompt + choice for choice in choices] == [tokens(text + "one"), tokens(text + "two more")]


@pytest.mark.parametrize(
    ("row", "code", "what"),
    [
        ({"kind": "choice", "choices": ["", "a"], "answer": "a"}, "bad_data", "'a': the choice '' has no tokens"),
        ({"kind": "judge", "answer": "a"}, "bad_data", "line 1: kind"),
        ({"kind": "json", "schema": {"type": "no such type"}}, "bad_data", "'a': its JSON Schema is invalid"),
        ({"kind": "tool_call", "tools": [{"name": "x_hidden_x"}]}, "template_no_tools", "'x_hidden_x'"),
    ],
)
def test_an_item_that_cannot_be_scored_stops_the_evaluation_before_a_model_is_asked(
    bench: Bench, row: dict[str, Any], code: str, what: str
) -> None:
    ended = bench.evaluate([{"id": "a", "prompt": "word", **row}])
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, code)
    assert what in ended.last.message
    assert not ended.out.exists()
