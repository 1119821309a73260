"""Tokenisation of training rows exactly as the base's own chat template writes conversations when it serves.

Training must use the form that callers will use later: a template that trims an answer, replaces a part of it or ends
it with another token teaches a form that nobody will ask for. So each row is rendered in full and compared.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from jinja2 import TemplateError

from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.training import Thoughts
from loradeck_agent.embedded.server import stop_tokens
from loradeck_agent.executors.base import NO_THOUGHT, Base
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import BadSpec, Run
from loradeck_agent.executors.training.training_rows import THOUGHT, Lesson, Message
from loradeck_agent.serving.engine_questions import EngineQuestion

_WRITTEN_THOUGHT = re.compile(r"\A.*?</think>\s*", re.DOTALL)
"""The thought before an answer as a template writes it, which may have opened it in the prompt."""


@dataclass(frozen=True)
class Example:
    """The tokens of one row. Its answer begins at `answer_at`; `rejected` holds a preference's other answer."""

    ids: list[int]
    answer_at: int
    general: bool = False
    rejected: tuple[int, ...] = ()
    good: bool = True
    """True: the model is to learn the answer; false: it is to unlearn it, as only the method KTO does."""
    weight: float = 1.0
    """How often it is drawn in each pass over the rows."""
    between: tuple[tuple[int, int], ...] = ()
    """Where several turns are trained: the tokens between two of them, from and up to."""

    @property
    def answer_tokens(self) -> int:
        """Number of tokens that are trained: of the answer, or of all answers, the end tokens included."""
        return len(self.ids) - self.answer_at - sum(end - begin for begin, end in self.between)

    @property
    def answer_places(self) -> list[int]:
        """The places of the tokens that are trained."""
        left_out = {at for begin, end in self.between for at in range(begin, end)}
        return [at for at in range(self.answer_at, len(self.ids)) if at not in left_out]

    @property
    def last_answer_at(self) -> int:
        """Where the last answer begins."""
        return self.between[-1][1] if self.between else self.answer_at

    @property
    def longest(self) -> int:
        """Length of its longest sequence, in tokens."""
        return max(len(self.ids), self.answer_at + len(self.rejected))


def check_base(base: Base, spec: TrainSpec) -> None:
    """Checks that the base's tokens and chat template can be trained with.

    Raises: BadSpec: `no_template`; `template_drift`: it is another template than the recipe names; `eos_mismatch`:
    engines stop at another token.
    """
    template = base.tokenizer.chat_template
    if not isinstance(template, str):
        raise BadSpec("no_template", "the base has no chat template, or several; rows cannot be written as it serves")
    found = template_digest(template)
    if spec.chat_template is not None and spec.chat_template != found:
        raise BadSpec(
            "template_drift",
            f"the rows were written for the chat template {spec.chat_template}, the base has {found}; "
            "look at what changed, then name the new one in chat_template",
        )
    stops = stop_tokens(base.model, base.tokenizer)
    if base.eos not in stops:
        raise BadSpec(
            "eos_mismatch", f"the chat template ends an answer with {base.eos}, engines would stop at {sorted(stops)}"
        )


def template_digest(template: str) -> str:
    """SHA-256 (hex) of a chat template's text."""
    return hashlib.sha256(template.encode()).hexdigest()


def tokenised(base: Base, lesson: Lesson, max_tokens: int) -> Example:
    """Tokenises a row.

    Raises: BadSpec: `bad_data`: the row is longer than `max_tokens` (it is never cut: half an answer teaches the wrong
    end); `template_drift`: the template changes the answer; `template_no_tools`: it drops the tools or calls.
    """
    prompt, answer = written(base, lesson, lesson.answer)
    head = list(base.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    ids = head + base.answer_ids(answer)
    rejected: tuple[int, ...] = ()
    if lesson.rejected is not None:
        _, other = written(base, lesson, lesson.rejected)
        rejected = tuple(base.answer_ids(other))
    example = Example(ids, len(head), lesson.general, rejected, lesson.good, lesson.weight)
    if example.longest > max_tokens:
        raise BadSpec(
            "bad_data", f"{lesson.where}: {example.longest} tokens, at most {max_tokens} are allowed (max_tokens)"
        )
    return example


def examples_of(base: Base, lesson: Lesson, max_tokens: int) -> list[Example]:
    """Tokenises a row with all of its turns that are trained.

    One example with a loss on each of them, where the template writes an earlier turn in the same tokens once others
    follow; else one example a turn. Thinking models' templates strip thoughts from the history: a turn has to be taught
    in the form in which the model will be asked for it.

    Raises: BadSpec: as in `tokenised`.
    """
    turns = [tokenised(base, turn, max_tokens) for turn in lesson.turns()]
    if any(later.ids[: len(earlier.ids)] != earlier.ids for earlier, later in pairwise(turns)):
        return turns
    between = tuple((len(earlier.ids), later.answer_at) for earlier, later in pairwise(turns))
    return [replace(turns[-1], answer_at=turns[0].answer_at, between=between)]


def check_served(current: Run, base: Base, engine: Served, made: Sequence[tuple[Lesson, Sequence[Example]]]) -> None:
    """Checks that the engine which serves reads each row's conversation in the tokens that are trained on.

    Raises:
        BadSpec: `template_drift`: it makes other tokens of the same messages and tools.
        ExecutorFailure: `engine_failed`: it refuses a row's messages or tools, or does not answer.
    """
    current.phase("asking the engine how it reads the rows")
    turns = [
        (turn, example)
        for lesson, examples in made
        for turn, example in zip(lesson.turns() if len(examples) > 1 else [lesson], examples, strict=True)
    ]
    questions = [EngineQuestion(messages=turn.prompt, tools=turn.tools) for turn, _ in turns]
    for number, answer in engine.each(questions, current.check):
        turn, example = turns[number]
        ours = example.ids[: example.last_answer_at]
        if turn.thoughts is Thoughts.MASK:  # which the model thinks itself
            ours = ours[: len(answer.ids)]
        if ours != list(answer.ids):
            at = next((i for i, (a, b) in enumerate(zip(ours, answer.ids, strict=False)) if a != b), len(ours))
            here, there = (base.tokenizer.decode(list(ids)[max(0, at - 4) : at + 8]) for ids in (ours, answer.ids))
            raise BadSpec(
                "template_drift",
                f"{turn.where}: the engine that serves reads the row in other tokens from number {at} on: {there!r} "
                f"and not {here!r}. Give both one chat template and tokenizer, and write calls and tools as callers do",
            )


def written(base: Base, lesson: Lesson, answer: Message) -> tuple[str, str]:
    """Renders a row by the base's chat template: returns the text before what is trained, and the text that is trained.

    A thought that is masked belongs to the prompt.

    Raises: BadSpec: `template_drift` or `template_no_tools`, as in `tokenised`.
    """
    messages, tools = list(lesson.prompt), list(lesson.tools) or None
    template = base.tokenizer.apply_chat_template
    try:
        prompt = str(template(messages, tools=tools, add_generation_prompt=True, tokenize=False))
        whole = str(template([*messages, answer], tools=tools, tokenize=False))
    except TemplateError as error:
        raise BadSpec("template_drift", f"{lesson.where}: the base's chat template refuses the row: {error}") from error
    if tools:
        _check_tools(base, lesson, prompt)
    for message in messages:
        for call in message.get("tool_calls") or ():
            _check_call(lesson, call, prompt)
        if message["role"] == "tool" and str(message.get("content", "")).strip() not in prompt:
            raise BadSpec("template_no_tools", f"{lesson.where}: the template does not write what a tool has answered")
    end = str(base.tokenizer.convert_ids_to_tokens(base.eos))
    text, found, rest = whole[len(prompt) :].partition(end)
    if not whole.startswith(prompt):
        raise BadSpec("template_drift", f"{lesson.where}: the template changes the prompt once an answer follows it")
    if not found or rest.strip() not in ("", base.tokenizer.eos_token):
        raise BadSpec("template_drift", f"{lesson.where}: the template does not end the answer with {end!r}")
    for call in answer.get("tool_calls") or ():
        _check_call(lesson, call, text)
    content, calls = str(answer.get("content") or ""), bool(answer.get("tool_calls"))
    thought = str(answer.get("reasoning_content") or "").strip()
    if thought and lesson.thoughts:
        if _thoughtful(text)[0] != thought:
            raise BadSpec(
                "template_drift", f"{lesson.where}: the template does not write its thought before the answer"
            )
        same = calls or _thoughtful(text)[1] == content.strip()
    elif thought or THOUGHT.match(content):
        same = calls or text == content
        if not same:
            raise BadSpec(
                "template_drift",
                f"{lesson.where}: the answer has a thought, which the template writes otherwise or leaves out; say "
                "what becomes of it: thoughts = 'train', 'strip' or 'mask'",
            )
    else:
        # Tokens are compared where the texts differ: to some tokenizers a space at the end is nothing. A thinking
        # model's template writes an empty thought: what is trained is to answer without one.
        same = calls or text == content or base.answer_ids(NO_THOUGHT.sub("", text)) == base.answer_ids(content)
    if not same:
        raise BadSpec(
            "template_drift",
            f"{lesson.where}: the template writes the answer as {text[:60]!r}, the row has {content[:60]!r}",
        )
    masked = _WRITTEN_THOUGHT.match(text) if lesson.thoughts is Thoughts.MASK else None
    return (prompt + masked[0], text[masked.end() :]) if masked else (prompt, text)


def _thoughtful(text: str) -> tuple[str, str]:
    """The thought and the rest of an answer, without the white space that templates put around both."""
    thought, found, rest = text.partition("</think>")
    return (thought.replace("<think>", "").strip(), rest.strip()) if found else ("", text.strip())


def _check_tools(base: Base, lesson: Lesson, prompt: str) -> None:
    names = [str(tool.get("function", tool).get("name")) for tool in lesson.tools]
    bare = base.tokenizer.apply_chat_template(list(lesson.prompt), add_generation_prompt=True, tokenize=False)
    if prompt == bare or any(name not in prompt for name in names):
        raise BadSpec(
            "template_no_tools",
            f"{lesson.where}: the base's chat template does not write the row's tools; train calls as JSON "
            "(structure.form = 'json'), with the tools in the prompt",
        )


def _check_call(lesson: Lesson, call: Message, text: str) -> None:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    values = json.loads(arguments) if isinstance(arguments, str) else arguments
    parts = [str(function["name"]), *map(str, values), *(v for v in values.values() if isinstance(v, str))]
    lost = [part for part in parts if part not in text and json.dumps(part)[1:-1] not in text]
    if lost:
        raise BadSpec("template_no_tools", f"{lesson.where}: the template does not write {lost[0]!r} of the tool call")
