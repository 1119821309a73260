"""Leak executor: begins rows of a release's datasets and counts those that it reproduces, and its base alone does.

Leaves `report.json` (a LeakReport). Which rows are begun follows from their digests, so that two releases of one
dataset are asked the same ones.
"""

import heapq
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradeck.artifacts.rows.barred_rows import row_digest
from loradeck.artifacts.rows.dataset_rows import prompt_of
from loradeck.rules.quality.leak import NEAR, reproduces
from loradeck.schemas.attestation import LEAKS_NAMED, LeakReport
from loradeck.schemas.jobs import LeakSpec
from loradeck_agent.executors.base import Base, load_base, tokenizer_of
from loradeck_agent.executors.evaluate import adapter_of, with_adapter
from loradeck_agent.executors.evaluation.in_process import greedy
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import BadSpec, Run
from loradeck_agent.executors.rows import json_lines
from loradeck_agent.serving.engine_questions import EngineQuestion

SHORTEST = 32
"""Fewest tokens of an answer that is begun: a rest of a few tokens is guessed, not remembered."""

LONGEST = 50
"""Most tokens of the rest that are compared (Carlini et al., arXiv:2202.07646)."""


@dataclass(frozen=True)
class Begun:
    """A row up to the middle of its answer, as tokens, and how it goes on."""

    digest: str
    prompt: list[int]
    rest: str
    tokens: int


def leak(current: Run) -> Mapping[str, Any]:
    """Runs one leak job; the report is in the spec's `out` folder when it returns.

    Returns the data of the FINISHED event: `n`, and the rows that the release and the base reproduce.

    Raises:
        BadSpec: the spec, a row, the base or the adapter is wrong; `bad_data`: no row is long enough.
        Preempted: SIGTERM was received; nothing is published.
    """
    spec, began = current.spec.spec, time.monotonic()
    assert isinstance(spec, LeakSpec)
    adapter = adapter_of(current, spec.tenant, spec.release, spec.datasets)
    engine = current.spec.engine
    if adapter is None:
        raise BadSpec("bad_spec", "a base alone was trained on no rows of ours")
    current.phase("loading the base")
    base = load_base(current.spec) if engine is None else tokenizer_of(Path(current.spec.base))
    rows = begun(base, [current.input(digest) for digest in spec.datasets], spec.rows)
    if not rows:
        raise BadSpec("bad_data", f"no answer of these datasets has {SHORTEST} tokens: there is nothing to remember")
    current.phase(f"continuing {len(rows)} rows")
    if engine is None:
        own, alone = _here(current, base, with_adapter(base.model, adapter).eval(), rows, spec.batch)
    else:
        own, alone = _asked(current, Served(engine, spec.batch), rows)
    report = report_of(spec, rows, own, alone).model_copy(
        update={"engine": engine.build if engine is not None else None, "seconds": round(time.monotonic() - began, 3)}
    )
    current.publish({"report.json": report})
    return {"n": report.n, "release": report.both + report.only_release, "base": report.both + report.only_base}


def begun(base: Base, paths: Iterable[Path], most: int) -> list[Begun]:
    """Rows whose answers are long enough, `most` of them, chosen and ordered by their digests.

    Raises: BadSpec: `bad_data`, with file and line.
    """
    chosen = heapq.nsmallest(most, _long_enough(base, paths), key=lambda row: row.digest)
    return list({row.digest: row for row in chosen}.values())


def _long_enough(base: Base, paths: Iterable[Path]) -> Iterable[Begun]:
    for path in paths:
        for _, row in json_lines(path):
            messages = prompt_of(row)
            answer = _answer(row) if messages else None
            tokens = base.tokenizer(answer, add_special_tokens=False)["input_ids"] if messages and answer else []
            if messages is None or len(tokens) < SHORTEST:
                continue
            half = max(len(tokens) // 2, len(tokens) - LONGEST)
            prompt = base.prompt_ids([dict(message) for message in messages])
            rest = base.text(list(tokens[half:]))
            yield Begun(row_digest(row), [*prompt, *tokens[:half]], rest, len(tokens) - half)


def _answer(row: Mapping[str, Any]) -> str | None:
    """The text that a row teaches; None where it is no text, as a call of a tool is none."""
    messages = row.get("messages") or [{}]
    found = row.get("answer", row.get("chosen", messages[-1]))
    text = found.get("content") if isinstance(found, dict) else found
    return text if isinstance(text, str) else None


def report_of(spec: LeakSpec, rows: Sequence[Begun], own: Sequence[str], alone: Sequence[str]) -> LeakReport:
    """Counts the rows that the release's continuations (`own`) and the base's (`alone`) reproduce."""
    leaks = [reproduces(row.rest, text) for row, text in zip(rows, own, strict=True)]
    known = [reproduces(row.rest, text) for row, text in zip(rows, alone, strict=True)]
    only = [row.digest for row, one, other in zip(rows, leaks, known, strict=True) if one and not other]
    both = sum(one and other for one, other in zip(leaks, known, strict=True))
    return LeakReport(
        release=spec.release,
        datasets=spec.datasets,
        n=len(rows),
        both=both,
        only_release=len(only),
        only_base=sum(known) - both,
        rows=tuple(only[:LEAKS_NAMED]),
        measure=f"the rest of an answer, of {LONGEST} tokens at most, within {NEAR:.0%} of its characters",
        seconds=0.0,
    )


def _here(current: Run, base: Base, model: Any, rows: Sequence[Begun], batch: int) -> tuple[list[str], list[str]]:
    own: list[str] = []
    alone: list[str] = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        prompts, longest = [row.prompt for row in part], max(row.tokens for row in part)
        own += [base.text(a.tokens) for a in greedy(model, prompts, longest, eos=base.eos, pad=base.pad)]
        with model.disable_adapter():
            alone += [base.text(a.tokens) for a in greedy(model, prompts, longest, eos=base.eos, pad=base.pad)]
        current.progress(len(own), len(rows))
        current.check()
    return own, alone


def _asked(current: Run, served: Served, rows: Sequence[Begun]) -> tuple[list[str], list[str]]:
    questions = [
        EngineQuestion(prompt=tuple(row.prompt), max_tokens=row.tokens, base=base)
        for row in rows
        for base in (False, True)
    ]
    texts = [""] * len(questions)
    for done, (number, answer) in enumerate(served.each(questions, current.check), start=1):
        texts[number] = answer.text
        current.progress(done // 2, len(rows))
    return texts[::2], texts[1::2]
