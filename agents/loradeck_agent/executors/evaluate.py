"""Evaluate executor: scores a release on a suite's held-out items and records its canaries.

The engine that serves is asked, where the spec names one; otherwise transformers answer in process, in fp32.

Leaves `report.json` (an EvaluationReport), and, in process or beside the embedded engine, `canary.json` (the release's
CanaryRecord) and `canary-base.json` (the record of the base alone on the same canaries). Engines prove with these
records that they serve the release; what other engines answer was recorded when the release was made ready.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from loradeck.artifacts.adapters import WEIGHTS
from loradeck.schemas.attestation import CanaryItem, CanaryRecord, EvaluationReport, ItemResult, ServedSpeed
from loradeck.schemas.jobs import AT_ONCE, EvaluateSpec
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.suite import ItemKind, SuiteItem
from loradeck_agent.embedded import adapter_bank
from loradeck_agent.embedded.server import embedded_build
from loradeck_agent.executors.base import NO_THOUGHT, Base, load_base, tokenizer_of
from loradeck_agent.executors.evaluation import harness
from loradeck_agent.executors.evaluation.in_process import (
    answered_here,
    choice_tokens,
    greedy,
    item_tokens,
    measured,
    posed,
)
from loradeck_agent.executors.evaluation.scoring import chosen, scored
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import BadSpec, Run
from loradeck_agent.executors.rows import Suite, check_schemas, read_suite
from loradeck_agent.serving.engine_api import CANARY_TOKENS, prompt_digest
from loradeck_agent.serving.engine_questions import EngineAnswer, EngineQuestion


def evaluate(current: Run) -> Mapping[str, Any]:
    """Runs one evaluate job; the results are in the spec's `out` folder when it returns.

    Returns the data of the FINISHED event: `n`, `exact` and `valid`, as counts of items.

    Raises:
        BadSpec: the spec, the suite, the base or the adapter is wrong.
        Preempted: SIGTERM was received; nothing is published.
    """
    spec = current.spec.spec
    assert isinstance(spec, EvaluateSpec)
    began = time.monotonic()
    adapter = adapter_of(current, spec.tenant, spec.release, (spec.suite,))
    suite = read_suite(current.input(spec.suite), spec.suite)
    if suite.harness is not None:
        return harness.evaluated(current, spec, suite.harness)
    if spec.arm is not None:
        suite = replace(suite, items=tuple(posed(item, spec.arm) for item in suite.items))
    check_schemas(suite)
    engine = current.spec.engine
    here = [item for item in suite.items if engine is None or (item.kind is ItemKind.CHOICE and not engine.scores)]
    records = engine is None or (bool(current.spec.canaries) and engine.build == embedded_build())
    records = records and spec.arm is None
    model = None
    if here or records:
        current.phase("loading the base")
        base = load_base(current.spec)
        model = (with_adapter(base.model, adapter) if adapter else base.model).eval()
    else:
        base = tokenizer_of(Path(current.spec.base))
    results = _Results(current, suite)
    speed = None
    if engine is not None:
        asked = [item for item in suite.items if item not in here]
        speed = _ask(results, base, Served(engine, spec.batch), asked, spec)
    for answers, pace in answered_here(
        base, model, here, suite.answer_schema, batch=spec.batch, max_new_tokens=spec.max_new_tokens
    ):
        results.add(answers, pace)
    items = [results.found[item.id] for item in suite.items]
    if spec.arm is not None:
        items = [measured(i, r, spec.arm, base, suite.answer_schema) for i, r in zip(suite.items, items, strict=True)]
    report = EvaluationReport(
        release=spec.release,
        suite=spec.suite,
        n=len(items),
        exact=sum(item.exact for item in items),
        valid=sum(item.valid for item in items),
        items=tuple(items),
        seconds=round(time.monotonic() - began, 3),
        engine=engine.build if engine is not None else None,
        offline=len(here) if engine is not None else 0,
        speed=speed if not any(item.kind is ItemKind.CHOICE for item in suite.items) else None,
    )
    current.check()
    documents: dict[str, BaseModel] = {"report.json": report}
    if model is not None and records:
        current.phase("recording canaries")
        documents["canary.json"] = canary_record(current, base, model, spec.release)
        alone = Release.of_base(spec.tenant, current.spec.base_digest).id
        if adapter:
            with model.disable_adapter():
                documents["canary-base.json"] = canary_record(current, base, model, alone)
    current.publish(documents)
    return {"n": report.n, "exact": report.exact, "valid": report.valid}


def with_adapter(model: Any, folder: Path) -> Any:
    """Wraps a base model with the adapter in `folder`, by peft, and checks that exactly the file's tensors were loaded.

    peft itself only warns about missing keys and leaves their modules at their random start.

    Raises: BadSpec: `bad_adapter`: the files are damaged, do not fit the base, or peft loaded other tensors.
    """
    try:
        lora = adapter_bank.read_config(folder)
        tensors = load_file(folder / WEIGHTS)
        adapter_bank.check_tensors(tensors, adapter_bank.expected_shapes(lora, adapter_bank.linear_shapes(model)))
    except (adapter_bank.AdapterFault, OSError, SafetensorError) as error:
        raise BadSpec("bad_adapter", str(error)) from error
    wrapped = PeftModel.from_pretrained(model, folder)
    loaded = get_peft_model_state_dict(wrapped)
    if loaded.keys() != tensors.keys() or any(not torch.equal(loaded[key], tensors[key]) for key in tensors):
        raise BadSpec("bad_adapter", "peft did not load the tensors that the file holds")
    return wrapped


def canary_record(current: Run, base: Base, model: Any, release: str) -> CanaryRecord:
    """Answers the spec's canaries greedily and keeps tokens and margins, as the embedded engine would compute them."""
    prompts = [base.prompt_ids([dict(message) for message in messages]) for messages in current.spec.canaries]
    answers = greedy(model, prompts, CANARY_TOKENS, eos=base.eos, pad=base.pad) if prompts else []
    return CanaryRecord(
        release=release,
        build=embedded_build(),
        items=tuple(
            CanaryItem(prompt=prompt_digest(messages), tokens=tuple(answer.tokens), margins=tuple(answer.margins))
            for messages, answer in zip(current.spec.canaries, answers, strict=True)
        ),
    )


@dataclass
class _Results:
    """The items' results as they come, reported as progress."""

    current: Run
    suite: Suite
    found: dict[str, ItemResult] = field(default_factory=dict)

    def add(self, results: Iterable[ItemResult], tokens_per_second: float = 0.0) -> None:
        """Takes results in and reports them. Raises: Preempted: SIGTERM was received."""
        self.found |= {result.id: result for result in results}
        done = self.found.values()
        self.current.progress(
            len(done),
            len(self.suite.items),
            exact=sum(result.exact for result in done) / len(done),
            exact_n=len(done),
            valid=sum(result.valid for result in done) / len(done),
            valid_n=len(done),
            tokens_per_second=tokens_per_second,
        )
        self.current.check()


def _ask(
    results: _Results, base: Base, served: Served, items: Sequence[SuiteItem], spec: EvaluateSpec
) -> ServedSpeed | None:
    """Has the engine that serves answer items, several at once. Returns how fast; None: it wrote nothing."""
    asked, questions = [], []
    for item in items:
        if item.kind is ItemKind.CHOICE:
            prompt, choices = choice_tokens(base, item)
            asked += [item] * len(choices)
            questions += [EngineQuestion(prompt=(*prompt, *choice), last=len(choice)) for choice in choices]
        else:
            asked.append(item)
            questions.append(EngineQuestion(prompt=tuple(item_tokens(base, item)), max_tokens=spec.max_new_tokens))
    firsts = {item.id: number for number, item in reversed(list(enumerate(asked)))}
    scores: dict[str, dict[int, EngineAnswer]] = {}
    began, tokens, took = time.monotonic(), 0, 0.0
    for number, answer in served.each(questions, results.current.check):
        item, ms = asked[number], round(answer.ms, 3)
        tokens += answer.tokens
        if item.kind is not ItemKind.CHOICE:
            result = scored(item, NO_THOUGHT.sub("", answer.text), results.suite.answer_schema, ms)
            result = result.model_copy(update={"tokens": (len(questions[number].prompt), answer.tokens)})
        else:
            said = scores.setdefault(item.id, {})
            said[number - firsts[item.id]] = answer
            if len(said) < len(item.choices):
                continue
            logs = [said[place].logprob or 0.0 for place in range(len(item.choices))]
            result = chosen(item, logs, sum(one.ms for one in said.values()))
        took = time.monotonic() - began
        results.add([result], tokens / took)
    at_once = min(spec.batch, AT_ONCE)
    return ServedSpeed(tokens=tokens, seconds=round(took, 3) or 0.001, at_once=at_once) if tokens else None


def adapter_of(current: Run, tenant: str, release: str, read: Collection[str]) -> Path | None:
    """Folder of a release's adapter; None for the base alone, and for merged weights, which are a base of their own.

    `read`: the suites and datasets among the spec's inputs.

    Raises: BadSpec: `bad_spec`: the inputs are not those of the release.
    """
    others = [digest for digest in current.spec.inputs if digest not in read]
    if len(others) > 1:
        raise BadSpec("bad_spec", f"the spec gives {len(others)} adapters, a release has one")
    adapter = others[0] if others else None
    named = current.spec.release
    if named is not None and named.form is Form.MERGED and adapter is None:
        if (named.id, named.merged) != (release, current.spec.base_digest):
            raise BadSpec("bad_spec", f"the merged weights are not those of the release {release}")
        return None
    form = Form.ADAPTER if adapter else Form.BASE
    found = Release(tenant=tenant, form=form, base=current.spec.base_digest, adapter=adapter).id
    if found != release:
        raise BadSpec("bad_spec", f"base and adapter make the release {found}, the spec is about {release}")
    return Path(current.spec.inputs[adapter]) if adapter else None
