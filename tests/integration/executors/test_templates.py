"""Every chat template that trl ships, with its family's special tokens: trained as written, or refused by name."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.integration.executors.running import Bench, Row, write_rows
from transformers import AutoTokenizer

from loradeck_agent.executors.base import Base, turn_end
from loradeck_agent.executors.protocol import BadSpec
from loradeck_agent.executors.training.templates import tokenised
from loradeck_agent.executors.training.training_rows import Lesson, read_lessons

_TRL = importlib.util.find_spec("trl")
assert _TRL is not None
assert _TRL.submodule_search_locations is not None
FOLDER = Path(_TRL.submodule_search_locations[0]) / "chat_templates"
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.endswith("_training"))
SPECIAL = re.compile(r"<[|｜][^<>{}'\"]{1,40}[|｜]>|<(?:start_of_turn|end_of_turn|bos|eos)>|<\|turn>|<turn\|>|</?s>")

REFUSED = {
    "cohere2": "does not end the answer",  # two tokens end a turn
    "deepseek_r1_distill": "changes the prompt",  # the prompt opens a thought that is dropped later
    "deepseekv3": "changes the prompt",
    "glm4moe": "does not end the answer",  # the next turn's token is its end
    "gptoss": "writes the answer as",  # a channel
    "idefics3": "does not end the answer",
    "llava_next": "refuses the row",  # it takes pictures
    "muse_glimmer": "writes the answer as",
    "nemotron_3_5_lightning": "changes the prompt",
    "nemotron_3_nano": "changes the prompt",
    "nemotron_3_super": "changes the prompt",
    "nemotron_3_ultra": "changes the prompt",
    "smolvlm": "does not end the answer",
}
"""Template -> what the refusal says. docs/training.md has the same list."""

NO_SYSTEM = {"gemma"}
THINKS = {"qwen3", "qwen3_5_think", "qwen3_6", "qwen3_8"}


def based_on(bench: Bench, name: str) -> Base:
    """A base with this template, whose engine would stop where the template ends a turn."""
    tokenizer: Any = AutoTokenizer.from_pretrained(bench.base)
    text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer.add_special_tokens({"additional_special_tokens": [*sorted(set(SPECIAL.findall(text))), "<bos>", "<eos>"]})
    tokenizer.chat_template = text
    end = turn_end(tokenizer)
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[end]))
    return Base(model, tokenizer, end, 0)


def lesson(*, system: bool) -> Lesson:
    turns = ({"role": "system", "content": "Be brief."},) if system else ()
    prompt = (*turns, {"role": "user", "content": "What is 2+2?"})
    return Lesson(where="line 1", prompt=prompt, answer={"role": "assistant", "content": "It is four."})


def test_the_list_of_refused_templates_names_templates() -> None:
    assert {*REFUSED, *NO_SYSTEM, *THINKS} <= set(FAMILIES)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in REFUSED])
def test_a_template_is_trained_as_it_writes_an_answer_up_to_its_own_end(bench: Bench, name: str) -> None:
    base = based_on(bench, name)
    for system in (False, True):
        if system and name in NO_SYSTEM:
            with pytest.raises(BadSpec, match="System role not supported") as no:
                tokenised(base, lesson(system=True), 4096)
            assert no.value.code == "template_drift"
            continue
        example = tokenised(base, lesson(system=system), 4096)
        answer = example.ids[example.answer_at :]
        assert answer[-1] == base.eos
        assert base.eos not in answer[:-1]
        assert base.text(answer) == "It is four."
        written = base.tokenizer.decode(answer[:-1])
        assert ("</think>" in written) == (name in THINKS)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_template_that_would_teach_another_form_than_is_asked_for_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(BadSpec, match=REFUSED[name]) as refused:
        tokenised(based_on(bench, name), lesson(system=False), 4096)
    assert refused.value.code == "template_drift"
    assert "line 1" in str(refused.value)


# ---- thoughts ----------------------------------------------------------------------------------------------------

INLINE: Row = {"prompt": "What is 2+2?", "answer": "<think>Two and two.</think>It is four."}
BESIDE: Row = {
    "messages": [
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "reasoning_content": "Two and two.", "content": "It is four."},
    ]
}


def parts(bench: Bench, base: Base, row: Row, thoughts: str | None) -> tuple[str, str]:
    """What is read and what is trained of a row, as text."""
    path = write_rows(bench.root / "thoughts.jsonl", [row])
    (one,) = read_lessons(path, bench.recipe(thoughts=thoughts))
    example = tokenised(base, one, 4096)
    return base.tokenizer.decode(example.ids[: example.answer_at]), base.tokenizer.decode(
        example.ids[example.answer_at :]
    )


@pytest.mark.parametrize("row", [INLINE, BESIDE])
@pytest.mark.parametrize("name", sorted(THINKS))
def test_a_thought_is_trained_stripped_or_masked_as_the_recipe_says(bench: Bench, name: str, row: Row) -> None:
    base = based_on(bench, name)
    with pytest.raises(BadSpec, match="thoughts = 'train', 'strip' or 'mask'") as refused:
        parts(bench, base, row, None)
    assert refused.value.code == "template_drift"
    end = base.tokenizer.decode([base.eos])
    _, trained = parts(bench, base, row, "train")
    assert trained.removeprefix("<think>\n") == f"Two and two.\n</think>\n\nIt is four.{end}"
    read, stripped = parts(bench, base, row, "strip")
    assert "Two and two" not in read + stripped
    assert stripped.endswith(f"</think>\n\nIt is four.{end}")
    read, masked = parts(bench, base, row, "mask")
    assert read.endswith("<think>\nTwo and two.\n</think>\n\n")
    assert masked == f"It is four.{end}"


def test_a_thought_that_a_template_does_not_write_is_not_said_to_be_trained(bench: Bench) -> None:
    base = based_on(bench, "qwen3")
    base.tokenizer.chat_template = based_on(bench, "qwen2_5").tokenizer.chat_template
    for row in (INLINE, BESIDE):
        with pytest.raises(BadSpec, match="does not write its thought before"):
            parts(bench, base, row, "train")


def test_a_row_that_is_only_a_thought_has_nothing_left_to_train(bench: Bench) -> None:
    with pytest.raises(BadSpec, match="without its thought the answer is empty"):
        parts(bench, based_on(bench, "qwen3"), {"prompt": "2+2?", "answer": "<think>Four.</think>"}, "strip")
