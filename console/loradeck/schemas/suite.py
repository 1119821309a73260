"""Items of a suite: one JSON object a line, by kind of answer.

    {"id", "prompt", "answer"}                              exact: equal text
    {"id", "prompt", "kind": "json", "schema": {...}}       JSON that satisfies the schema, and equals "answer" if given
    {"id", "prompt", "kind": "tool_call", "tools": [...], "call": {"name", "arguments"} or null}
    {"id", "prompt", "kind": "refusal", "refuse": true}     `refuse` false: a harmless request that must be answered
    {"id", "prompt", "kind": "choice", "choices": [...], "answer"}      the likeliest of the choices

`messages` may replace `prompt`: a conversation, which for exact items may end with the assistant's answer. `slice` may
name the part of the suite that an item belongs to: a language, a product, a group of customers.

`contexts` may hold the texts that the customer's own retriever has found for an item, each {"id", "text"}; `cites` the
id of the one that has the truth, and `changed_on` the day on which that truth has changed, as 2026-05-01.

Further down: how an arm of a worksheet puts items to a release, and suites whose one row names a task of another
evaluation harness.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, StringConstraints, model_validator

from loradeck.schemas.ids import Digest, Strict, Wire, added

REFUSALS = (
    "i can't",
    "i cannot",
    "i can not",
    "i won't",
    "i will not",
    "i'm not able to",
    "i am not able to",
    "i'm unable to",
    "i am unable to",
    "i must decline",
)
"""Phrases that mark a refusal, case-insensitive, unless an item brings its own."""


LONGEST_SLICE = 100
"""Characters of a slice's name."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """How the items of a suite belong together, by their ids.

    `copies`: an item that asks what an earlier one asks -> the first that does. `near`: an item that nearly repeats an
    earlier one -> the first of its cluster; copies are not among them. `slices`: an item -> its slice. `asked`: a
    digest of what is asked -> the first item that asks it. `changed`: the items whose truth has changed.
    """

    copies: Mapping[str, str] = field(default_factory=dict)
    near: Mapping[str, str] = field(default_factory=dict)
    slices: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()


class ItemKind(StrEnum):
    """How an item's answer is scored."""

    EXACT = "exact"  # equal to the item's answer, as text
    JSON = "json"  # JSON that satisfies the item's or the suite's schema, and equals the item's answer if it has one
    TOOL_CALL = "tool_call"  # calls of the item's tools with valid arguments; the expected one, or none, if given
    REFUSAL = "refusal"  # a refusal; with `refuse` false, no refusal
    CHOICE = "choice"  # the likeliest of the item's choices is its answer


class Context(Wire):
    """A text that a retriever has found for an item."""

    id: str = Field(min_length=1, max_length=200, pattern=r"^[^\[\]]+$")
    text: str = Field(min_length=1, max_length=100_000)


class SuiteItem(Wire):
    """One held-out item. Unknown fields are ignored."""

    id: str = Field(min_length=1, max_length=200)
    kind: ItemKind = ItemKind.EXACT
    prompt: tuple[dict[str, str], ...] = Field(min_length=1, description="{role, content}; a text is the user's")
    answer: str | None = None
    answer_schema: dict[str, Any] | None = Field(None, alias="schema")
    tools: tuple[dict[str, Any], ...] = ()
    call: dict[str, Any] | None = Field(
        None, description="null: no tool is to be called; absent: any valid call will do"
    )
    refuse: bool = True
    phrases: tuple[str, ...] = Field(REFUSALS, min_length=1)
    choices: tuple[str, ...] = ()
    contexts: tuple[Context, ...] = Field((), max_length=100)
    cites: str | None = None
    changed_on: str | None = Field(None, pattern=r"^\d{4}-\d\d-\d\d$", description="a day")
    slice: str | None = Field(None, description="part of the suite that it belongs to, of 100 characters at most")

    @model_validator(mode="before")
    @classmethod
    def _written(cls, row: Any) -> Any:
        """Normalises a row of the file: its prompt is a text or `messages`, which may end with the answer."""
        if not isinstance(row, dict):
            return row
        row = dict(row)
        part = row.pop("slice", None)
        if isinstance(part, str) and 0 < len(part) <= LONGEST_SLICE:  # another one is a field that no kind uses
            row["slice"] = part
        messages = row.pop("messages", None)
        if messages is None:
            if not isinstance(row.get("prompt"), str) or not row["prompt"]:
                raise ValueError("an item needs a prompt, as text, or messages")
            return row | {"prompt": [{"role": "user", "content": row["prompt"]}]}
        if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
            raise ValueError("messages must be a list of {role, content}")
        if messages[-1]["role"] == "assistant":
            return {"answer": messages[-1]["content"]} | row | {"prompt": messages[:-1]}
        return row | {"prompt": messages}

    @model_validator(mode="after")
    def _as_its_kind_needs(self) -> Self:
        if self.cites is not None and self.cites not in {context.id for context in self.contexts}:
            raise ValueError("an item cites one of its contexts")
        match self.kind:
            case ItemKind.EXACT:
                if not self.answer:
                    raise ValueError("an exact item needs an answer, as text")
            case ItemKind.JSON:
                self._check_json()
            case ItemKind.TOOL_CALL:
                self._check_tools()
            case ItemKind.CHOICE:
                if len(set(self.choices)) < 2 or len(set(self.choices)) != len(self.choices):
                    raise ValueError("a choice item needs two or more different choices")
                if self.answer not in self.choices:
                    raise ValueError("the answer of a choice item is one of its choices")
            case ItemKind.REFUSAL:
                if not all(phrase.strip() for phrase in self.phrases):
                    raise ValueError("a phrase of a refusal item is empty: every answer would contain it")
        return self

    @property
    def states_the_call(self) -> bool:
        """Whether the item states the expected call; `call: null` states that none is expected."""
        return "call" in self.model_fields_set

    def _check_json(self) -> None:
        if self.answer is not None:
            try:
                json.loads(self.answer)
            except ValueError as error:
                raise ValueError(f"the answer of a json item is not JSON: {error}") from None

    def _check_tools(self) -> None:
        names = [name_of(tool) for tool in self.tools]
        if not names or None in names or len(set(names)) != len(names):
            raise ValueError("a tool_call item needs tools, each with a name of its own")
        if self.call is None:
            return
        if self.call.get("name") not in names:
            raise ValueError(f"the expected call names {self.call.get('name')!r}, the item's tools are {names}")
        if not isinstance(self.call.get("arguments", {}), dict):
            raise ValueError("the arguments of the expected call are not a JSON object")


def name_of(tool: dict[str, Any]) -> str | None:
    """A tool's name, whether bare or as OpenAI's `{"type": "function", "function": {...}}`; None if it has none."""
    inner = tool.get("function", tool)
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if isinstance(name, str) and name else None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


_Text = Annotated[str, StringConstraints(max_length=16_384)]


class Shot(Strict):
    """An example that a prompt shows."""

    prompt: _Text
    answer: _Text


class Arm(Strict):
    """An arm of a worksheet: how the items of a suite are put to a release. Empty: as they are."""

    system: _Text = added("", "what the system says first")
    shots: tuple[Shot, ...] = added((), "examples before the question", max_length=32)
    contexts: bool = added(False, "the texts that items carry are shown, and the answer cites one of them")


TASKS = 200
"""Most tasks of one file; lm-eval counts the parts of MMLU as tasks of their own."""


Harness = Literal["lm-eval", "inspect-ai"]


class HarnessTask(Strict):
    """The one row of a suite whose items are those of a harness's task, in the environment of the job's node."""

    harness: Harness
    task: str = Field(
        max_length=200,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(@[A-Za-z0-9_]+)?$",
        description="lm-eval's name of a task; of inspect-ai a file in the node's folder of tasks, and a task in it: "
        "tickets.py@tickets",
    )
    metric: str = Field(
        min_length=1, max_length=100, description="of each sample, 0 or 1: lm-eval's metric, inspect-ai's scorer"
    )
    items: int = Field(ge=1, description="the first so many, which the task must have")
    api: Literal["chat", "completions"] = Field(
        "chat", description="lm-eval: how it asks; tasks of likelihoods need completions, and an engine that scores"
    )


class HarnessFigure(Strict):
    """One figure of one task: `acc` of `mmlu`, with its standard error where the harness states one."""

    task: str = Field(min_length=1, max_length=200)
    version: str = Field("", max_length=50, description="of the task")
    name: str = Field(min_length=1, max_length=100)
    value: FiniteFloat
    stderr: FiniteFloat | None = None
    n: int | None = Field(None, ge=0, description="items")


class HarnessReport(Strict):
    """Figures that a harness computed for a release, elsewhere, and that a person has sent."""

    release: Digest
    harness: Harness
    version: str = Field(max_length=50, description="of the harness; empty where its file does not say")
    model: str = Field(max_length=300, description="the model that it says it asked")
    file: Digest = Field(description="SHA-256 of the harness's own file")
    figures: tuple[HarnessFigure, ...] = Field(min_length=1, max_length=TASKS * 4)
