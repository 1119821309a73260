"""Generate executor: asks releases through the engines that serve them, and keeps the answers that pass as rows.

Leaves `rows.jsonl` and `report.json` (a GenerationReport). What is asked follows from the recipe's seed; each question
has a seed of its own, by which an engine draws alike.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradeck.artifacts.adapters import MANIFEST
from loradeck.artifacts.rows import near_duplicates
from loradeck.artifacts.rows.barred_rows import texts_in
from loradeck.artifacts.rows.contamination import folded_words, found_in
from loradeck.artifacts.rows.personal_data import ILLNESS, kinds_in, secrets
from loradeck.rules.data import variety
from loradeck.rules.data.synthetic import Asked, prompts, share
from loradeck.rules.quality.statistics import ratio
from loradeck.schemas.generation import ROWS, GenerateSpec, GenerationReport, Source, SourceCount, Variety, filled
from loradeck.schemas.manifest import DatasetManifest, Origin
from loradeck.schemas.training import AnswerForm
from loradeck_agent.executors.base import NO_THOUGHT, Base, tokenizer_of
from loradeck_agent.executors.evaluation.in_process import prompt_tokens
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import BadSpec, Run
from loradeck_agent.executors.rows import json_lines, read_suite
from loradeck_agent.executors.training.verifiers import calls, reward, well_formed
from loradeck_agent.serving.engine_questions import EngineQuestion

JUDGED_BY = 16
"""Most tokens of a judge's answer."""


@dataclass(frozen=True)
class Candidate:
    """An answer to a prompt. `where`: its number among all questions."""

    where: int
    asked: Asked
    source: Source
    answer: str

    @property
    def question(self) -> str:
        """The text that was asked."""
        return self.asked.messages[-1]["content"]


def generate(current: Run) -> Mapping[str, Any]:
    """Runs one generate job; rows and report are in the spec's `out` folder when it returns.

    Returns the data of the FINISHED event: how many were asked, passed and kept.

    Raises:
        BadSpec: the spec or an input is wrong; `nothing_passed`: no answer is left.
        ExecutorFailure: `engine_failed`.
        Preempted: SIGTERM was received; nothing is published.
    """
    spec = current.spec.spec
    assert isinstance(spec, GenerateSpec)
    people = [row for digest in spec.beside for row in _people(current.input(digest))]
    if not people:
        raise BadSpec("bad_data", "the datasets beside hold no row that a person wrote")
    candidates, asked = _answered(current, spec)
    clean = _without_personal_data(candidates)
    passed = _verified(current, spec, clean)
    kept, copies, near, contaminated = _new(current, passed, people)
    counts = f"{asked} asked, {len(candidates)} answered, {len(passed)} of {len(clean)} passed, {len(kept)} new"
    if not kept:
        raise BadSpec("nothing_passed", f"no row is left: {counts}")
    report = GenerationReport(
        job=current.spec.run,
        asked=asked,
        unfinished=asked - len(candidates),
        sensitive=len(candidates) - len(clean),
        passed=share(len(passed), len(clean)),
        sources=_by_source(spec, clean, passed),
        copies=copies,
        near=near,
        contaminated=contaminated,
        rows=len(kept),
        beside=spec.beside,
        **compared([one.answer for one in kept], [answer for _, answer in people]),
    )
    current.phase(counts)
    rows = "".join(json.dumps(_row(one, spec), ensure_ascii=False) + "\n" for one in kept)
    current.publish({ROWS: rows.encode(), "report.json": report})
    return {"asked": asked, "passed": len(passed), "rows": len(kept)}


def compared(rows: Sequence[str], people: Sequence[str]) -> dict[str, Any]:
    """Compares answers of a model with people's: how various either are, on equally many words, and people's tail."""
    ours, theirs = ([folded_words(text) for text in texts] for texts in (rows, people))
    words = min(sum(map(len, ours)), sum(map(len, theirs)))
    tail, tail_of_people = variety.tails(ours, theirs)
    return {
        "variety": various(variety.cut_to(ours, words)),
        "people": various(variety.cut_to(theirs, words)),
        "tail": share(*tail),
        "tail_of_people": share(*tail_of_people),
    }


def various(texts: Sequence[Sequence[str]]) -> Variety:
    """Measures how various texts are, each as its words."""
    bleus = variety.self_bleus(texts)
    mean, error = ratio(bleus, [1.0] * len(bleus)) if bleus else (0.0, 0.0)
    return Variety(
        texts=len(texts),
        words=sum(map(len, texts)),
        distinct_1=variety.distinct(texts, 1),
        distinct_2=variety.distinct(texts, 2),
        self_bleu=round(1000 * mean),
        compared=len(bleus),
        self_bleu_error=round(1000 * error),
    )


def _answered(current: Run, spec: GenerateSpec) -> tuple[list[Candidate], int]:
    """Asks every prompt in every round, of the sources in turn, which move on by one from round to round.

    Returns the answers that ended, and how many were asked for.
    """
    once = [one for one in prompts(spec) for _ in range(spec.answers)]
    plan = [(one, heat) for heat in spec.temperatures for one in once]
    turns = [(number + number // len(once)) % len(spec.sources) for number in range(len(plan))]
    found: list[Candidate] = []
    done = 0
    for place, source in enumerate(spec.sources):
        base, engine = _engine(current, source.release, source.base, spec.batch)
        mine = [(number, *plan[number]) for number, turn in enumerate(turns) if turn == place]
        questions = [
            EngineQuestion(
                prompt=tuple(prompt_tokens(base, asked.messages, spec.tools, f"prompt {number}")),
                max_tokens=spec.max_new_tokens,
                temperature=heat,
                seed=_seed(spec.seed, number),
            )
            for number, asked, heat in mine
        ]
        for at, answer in engine.each(questions, current.check):
            number, asked, _ = mine[at]
            text, done = NO_THOUGHT.sub("", answer.text).strip(), done + 1
            if text and answer.tokens < spec.max_new_tokens:
                found.append(Candidate(number, asked, source, text))
            current.progress(done, len(plan))
    return sorted(found, key=lambda one: one.where), len(plan)


def _seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4]) >> 1


def _without_personal_data(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The answers in which nothing personal stands. An illness alone is not: it is what a clinic's answers are of."""
    context, detect, _ = secrets()
    with context:
        return [one for one in candidates if not kinds_in(texts_in([one.answer]), detect) - {ILLNESS}]


def _verified(current: Run, spec: GenerateSpec, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The answers that pass the recipe's verifier: by form and what is wanted, then by its judge."""
    passed = [one for one in candidates if passes(spec, one.asked, one.answer)]
    judge = spec.verifier.judge
    if judge is None or not passed:
        return passed
    current.phase(f"asking the judge about {len(passed)} answers")
    base, engine = _engine(current, judge.release, judge.base, spec.batch)
    questions = [
        EngineQuestion(
            prompt=tuple(base.prompt_ids([{"role": "user", "content": shown}])),
            max_tokens=JUDGED_BY,
        )
        for shown in (filled(judge.prompt, {"prompt": one.question, "answer": one.answer}) for one in passed)
    ]
    said = {at: NO_THOUGHT.sub("", answer.text).strip() for at, answer in engine.each(questions, current.check)}
    return [one for at, one in enumerate(passed) if said[at].casefold().startswith(judge.passes.casefold())]


def passes(spec: GenerateSpec, asked: Asked, answer: str) -> bool:
    """Tells whether an answer has the form that the recipe asks for, and is right where the template says what is.

    Raises: BadSpec: `bad_data`: the schema cannot be used.
    """
    verifier, slots = spec.verifier, asked.slots
    is_json = verifier.form is AnswerForm.JSON
    wanted = filled(asked.template.wanted, slots, in_json=verifier.form is not AnswerForm.TEXT)
    schema = None
    if verifier.answer_schema is not None:
        try:
            schema = json.loads(filled(verifier.answer_schema, slots, in_json=True))
        except ValueError as error:
            raise BadSpec("bad_data", f"the verifier's answer_schema is not JSON: {error}") from error
    shape = wanted or ("{}" if is_json else '{"name": ""}')
    if not well_formed(verifier.form, schema, shape, answer):
        return False
    known = {str(tool.get("function", tool).get("name")) for tool in spec.tools}
    if known and any(name not in known for name, _ in calls(answer)):
        return False
    return not wanted or reward(verifier.form, schema, wanted, answer) >= verifier.least


def _new(
    current: Run, passed: Sequence[Candidate], people: Sequence[tuple[str, str]]
) -> tuple[list[Candidate], int, int | None, int]:
    """The rows that stand nowhere yet: copies, near-duplicates and items of suites are left out, and counted."""
    seen, once = {_key(*row) for row in people}, list[Candidate]()
    for one in passed:
        if (key := _key(one.question, one.answer)) not in seen:
            seen.add(key)
            once.append(one)
    near: set[int] | None = None
    if near_duplicates.available():
        texts = [f"{question}\n{answer}" for question, answer in (*people, *((c.question, c.answer) for c in once))]
        near = {at - len(people) for at in near_duplicates.doubles(texts)}
    apart = [one for at, one in enumerate(once) if near is None or at not in near]
    held = set[int]()
    for digest in current.spec.held_out:
        questions = read_suite(current.input(digest), digest).questions
        held |= {line - 1 for line, *_ in found_in([one.question for one in apart], questions)}
    kept = [one for at, one in enumerate(apart) if at not in held]
    return kept, len(passed) - len(once), None if near is None else len(once) - len(apart), len(held)


def _by_source(
    spec: GenerateSpec, verified: Sequence[Candidate], passed: Sequence[Candidate]
) -> tuple[SourceCount, ...]:
    n, k = (Counter(one.source.release for one in of) for of in (verified, passed))
    return tuple(SourceCount(release=s.release, passed=share(k[s.release], n[s.release])) for s in spec.sources)


def _row(one: Candidate, spec: GenerateSpec) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": one.question, "answer": one.answer}
    if one.asked.template.system or spec.tools:
        answer: dict[str, Any] = {"role": "assistant", "content": one.answer}
        if spec.tools and (called := calls(one.answer)):
            made = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in called]
            answer = {"role": "assistant", "content": "", "tool_calls": made}
        row = {"messages": [*one.asked.messages, answer]}
    tools = {"tools": list(spec.tools)} if spec.tools else {}
    own = {"generator_release": one.source.release, "licence_class": one.source.licence}
    return {**row, **tools, "provenance": own}


def _people(path: Path) -> Iterator[tuple[str, str]]:
    """Questions and answers of a dataset's rows that people wrote."""
    of_all: str = Origin.HUMAN
    if (manifest := path / MANIFEST).is_file():
        of_all = DatasetManifest.model_validate_json(manifest.read_bytes()).provenance.origin
    for _, row in json_lines(path):
        if (row.get("provenance") or {}).get("origin", of_all) == Origin.HUMAN:
            yield said(row)


def said(row: Mapping[str, Any]) -> tuple[str, str]:
    """Question and answer of a training row, as texts."""
    messages = list(row.get("messages") or [{"role": "user", "content": row.get("prompt", "")}])
    answer = row.get("answer", row.get("chosen"))
    if answer is None:
        answer = messages.pop()
    if isinstance(answer, Mapping):
        answer = answer.get("content") or json.dumps(answer.get("tool_calls", ""))
    return "\n".join(str(one.get("content", "")) for one in messages if one.get("role") == "user"), str(answer)


def _key(question: str, answer: str) -> tuple[str, ...]:
    """Makes the key that two copies of a row have in common: the words of question and answer."""
    return (*folded_words(question), "\n", *folded_words(answer))


def _engine(current: Run, release: str, base: str, batch: int) -> tuple[Base, Served]:
    """The tokenizer of a release's base, and the engine that is asked for the release."""
    if release not in current.spec.doors:
        raise BadSpec("bad_spec", f"the spec names no engine for the release {release}")
    return tokenizer_of(current.input(base)), Served(current.spec.doors[release], batch)
