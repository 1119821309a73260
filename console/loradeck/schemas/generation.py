"""Generate jobs: prompts made of templates, the releases that answer, what each answer has to pass, and the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from loradeck.schemas.ids import Digest, Name, Strict, added
from loradeck.schemas.training import AnswerForm

ROWS = "rows.jsonl"
"""The file of rows that a generate job makes."""

MOST_TEXTS = 1000
"""Most texts of a slot."""

MOST_ASKED = 200_000
"""Most questions of a job: prompts, times answers to each, times rounds."""

MOST_PROMPTS = 100_000
"""Most prompts that a template makes with all texts of its slots."""


_Slot = Annotated[str, StringConstraints(max_length=100)]
_Filling = Annotated[str, StringConstraints(max_length=20_000)]


class Source(Strict):
    """A release that answers, and on which terms."""

    release: Digest
    base: Digest = Field(description="what an engine has to serve for it")
    licence: str = Field(
        min_length=1,
        max_length=100,
        description="of what it writes: SPDX id or house class; policies forbid some",
    )
    terms: str = Field(
        "",
        max_length=500,
        description="who has read that its terms allow to train on what it writes, where, and when; without it the job "
        "is refused",
    )


class Template(Strict):
    """A question with slots, `{{name}}`, each of which one of the slot's texts fills."""

    prompt: str = Field(min_length=1, max_length=20_000)
    system: str = Field("", max_length=20_000)
    wanted: str = Field("", max_length=20_000, description="what is right, with slots; empty: nobody knows it")


class Judge(Strict):
    """A release that is asked, greedily, whether an answer passes."""

    release: Digest
    base: Digest
    prompt: str = Field(max_length=20_000, description="with {{prompt}} and {{answer}}")
    passes: str = Field("yes", min_length=1, max_length=100, description="how its answer begins, whatever the case")

    @model_validator(mode="after")
    def _shows_the_answer(self) -> Judge:
        if named_in(self.prompt) != {"prompt", "answer"}:
            raise ValueError("the judge's prompt has {{prompt}} and {{answer}}, and no other slot")
        return self


class Verifier(Strict):
    """What an answer has to pass: its form, the template's `wanted` by the rewards of GRPO, and a judge."""

    form: AnswerForm = Field(description="json and tool_call are parsed; text needs `wanted` or a judge to be checked")
    answer_schema: str | None = Field(None, max_length=100_000, description="JSON Schema as text, with slots; for json")
    least: float = Field(1.0, gt=0, le=1, description="least reward against `wanted`")
    judge: Judge | None = None

    @model_validator(mode="after")
    def _schema_is_of_json(self) -> Verifier:
        if self.answer_schema is not None and self.form is not AnswerForm.JSON:
            raise ValueError("answer_schema is for json")
        return self


class GenerateSpec(Strict):
    """A recipe of synthetic rows: every prompt is asked in each round, of the sources in turn."""

    kind: Literal["generate"] = "generate"
    tenant: Name
    name: Name = Field(description="of the dataset")
    sources: tuple[Source, ...] = Field(min_length=1, max_length=8)
    templates: tuple[Template, ...] = Field(min_length=1, max_length=100)
    slots: dict[_Slot, tuple[_Filling, ...]] = Field(default_factory=dict, max_length=100)
    tools: tuple[dict[str, Any], ...] = Field((), max_length=100, description="shown with every prompt")
    prompts: int = Field(100, ge=1, le=20_000, description="different ones, of all templates in turn")
    answers: int = Field(1, ge=1, le=16, description="to each prompt in each round")
    temperatures: tuple[float, ...] = Field((0.7, 1.0), min_length=1, max_length=16, description="a round each")
    max_new_tokens: int = Field(128, ge=1, le=4096, description="an answer that does not end by then is left out")
    seed: int = Field(0, ge=0, lt=2**31)
    batch: int = Field(8, ge=1, le=1024, description="questions that are with an engine at once")
    verifier: Verifier
    beside: tuple[Digest, ...] = Field(
        min_length=1,
        max_length=20,
        description="datasets with rows of people that these rows are trained beside, and compared with",
    )

    @property
    def asked(self) -> dict[Digest, Digest]:
        """The releases that are asked, and the base that each needs; the judge is the last."""
        judge = self.verifier.judge
        judges = {judge.release: judge.base} if judge is not None else {}
        return {source.release: source.base for source in self.sources} | judges

    @model_validator(mode="after")
    def _fits_together(self) -> GenerateSpec:
        texts = [text for one in self.templates for text in (one.prompt, one.system, one.wanted)]
        texts.append(self.verifier.answer_schema or "")
        named = {slot for text in texts for slot in named_in(text)}
        products = [
            math.prod(len(self.slots[slot]) for slot in slots_of(one, self) & self.slots.keys())
            for one in self.templates
        ]
        wrong = {
            f"slots without texts: {', '.join(sorted(named - self.slots.keys()))}": named - self.slots.keys(),
            f"slots that no template has: {', '.join(sorted(self.slots.keys() - named))}": self.slots.keys() - named,
            f"a slot has 1 to {MOST_TEXTS} texts": any(not 0 < len(one) <= MOST_TEXTS for one in self.slots.values()),
            f"a template with all its texts makes at most {MOST_PROMPTS:,} prompts": any(
                made > MOST_PROMPTS for made in products
            ),
            f"prompts times answers times temperatures are at most {MOST_ASKED:,}": (
                self.prompts * self.answers * len(self.temperatures) > MOST_ASKED
            ),
            "temperatures are from 0 to 2": any(not 0 <= one <= 2 for one in self.temperatures),
            "tools are for tool_call": self.tools and self.verifier.form is not AnswerForm.TOOL_CALL,
            "the sources are different releases": len({one.release for one in self.sources}) < len(self.sources),
            "several answers to a prompt at temperature 0 are the same one": self.answers > 1
            and 0 in self.temperatures,
        }
        found = [rule for rule, broken in wrong.items() if broken]
        if found:
            raise ValueError("; ".join(found))
        return self


def slots_of(template: Template, spec: GenerateSpec) -> set[str]:
    """The slots whose texts make different prompts of a template, those of the schema included."""
    texts = (template.prompt, template.system, template.wanted, spec.verifier.answer_schema or "")
    return {slot for text in texts for slot in named_in(text)}


def filled(text: str, slots: Mapping[str, str], *, in_json: bool = False) -> str:
    """Fills the slots of a template's text. `in_json`: the text is JSON, and slots stand inside of its strings."""
    made, *parts = text.split("{{")
    for part in parts:
        name, end, rest = part.partition("}}")
        if not end or name not in slots:
            made += "{{" + part
        else:
            made += (json.dumps(slots[name])[1:-1] if in_json else slots[name]) + rest
    return made


def named_in(text: str) -> set[str]:
    """Lists the slots of a text, such as `product` of `{{product}}`."""
    names = (part.partition("}}") for part in text.split("{{")[1:])
    return {name for name, end, _ in names if end and name.isidentifier()}


class Share(Strict):
    """A share, k of n, with its 95 % Wilson interval in thousandths: manifests hold no floats."""

    k: int = Field(ge=0)
    n: int = Field(ge=0)
    low: int = Field(ge=0, le=1000)
    high: int = Field(ge=0, le=1000)


class Variety(Strict):
    """How various texts are; see `rules.data.variety`. Compare only what is of equally many words."""

    texts: int = Field(ge=0)
    words: int = Field(ge=0, description="that were looked at")
    distinct_1: int = Field(ge=0, description="different words among them")
    distinct_2: int = Field(ge=0, description="different pairs of words")
    self_bleu: int = Field(ge=0, le=1000, description="thousandths; higher: the texts are more like each other")
    compared: int = added(0, "texts that this is a mean over; 0: not known", ge=0)
    self_bleu_error: int = added(0, "its standard error over these, in thousandths", ge=0)


class SourceCount(Strict):
    """What one source's answers came to."""

    release: Digest
    passed: Share


class GenerationReport(Strict):
    """What became of every question of a generate job, and how its rows compare with those of people.

    `asked = unfinished + sensitive + passed.n`, and `passed.k = copies + near + contaminated + rows`.
    """

    job: str = Field(max_length=200)
    asked: int = Field(ge=1)
    unfinished: int = Field(ge=0, description="answers that did not end in time, or are empty")
    sensitive: int = Field(ge=0, description="with what looks like personal data or secrets")
    passed: Share = Field(description="of the verifier's run")
    sources: tuple[SourceCount, ...]
    copies: int = Field(ge=0, description="the row stands earlier here, or among those of people")
    near: int | None = Field(ge=0, description="almost the same as an earlier one; None: not looked for")
    contaminated: int = Field(ge=0, description="holds an item of a suite")
    rows: int = Field(ge=1)
    beside: tuple[Digest, ...]
    variety: Variety
    people: Variety = Field(description="of the rows of people")
    tail: Share = Field(description="of half of people's rows' rare words, those that the rows have")
    tail_of_people: Share = Field(description="likewise, those that the other half has, in as many words")
