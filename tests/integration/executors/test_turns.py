"""Recipes that train every turn of a conversation, on a random two-layer model."""

from __future__ import annotations

import pytest
from tests.integration.executors.running import Bench, Row, write_rows

from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK
from loradeck_agent.executors.base import Base, read_base
from loradeck_agent.executors.training.templates import Example, examples_of
from loradeck_agent.executors.training.training_rows import read_lessons

MENDED: Row = {
    "messages": [
        {"role": "user", "content": "rain in Oslo?"},
        {"role": "assistant", "content": "call wether", "train": False},
        {"role": "user", "content": "no such tool"},
        {"role": "assistant", "content": "call weather"},
        {"role": "user", "content": "9 mm"},
        {"role": "assistant", "content": "Yes, 9 mm."},
    ]
}
FORGETFUL = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and not loop.last %}-{% else %}{{ m.content }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def examples(bench: Bench, base: Base, row: Row) -> list[Example]:
    path = write_rows(bench.root / "turns.jsonl", [row])
    (lesson,) = read_lessons(path, bench.recipe(turns="all"))
    return examples_of(base, lesson, 512)


def trained_text(base: Base, example: Example) -> str:
    skipped = {at for begin, end in example.between for at in range(begin, end)}
    return str(
        base.tokenizer.decode([t for at, t in enumerate(example.ids) if at >= example.answer_at and at not in skipped])
    )


def test_every_turn_is_trained_but_those_that_a_row_leaves_out(bench: Bench) -> None:
    base = read_base(bench.base)
    (example,) = examples(bench, base, MENDED)
    assert trained_text(base, example) == "call weather<|im_end|>Yes, 9 mm.<|im_end|>"
    assert example.answer_tokens == len(base.answer_ids("call weather")) + len(base.answer_ids("Yes, 9 mm."))
    assert base.tokenizer.decode(example.ids[example.last_answer_at :]) == "Yes, 9 mm.<|im_end|>"
    told = base.tokenizer.apply_chat_template(MENDED["messages"], tokenize=False)
    assert base.tokenizer.decode(example.ids) == told.strip("\n"), "the model reads what it will be asked with"


def test_a_template_that_rewrites_earlier_turns_gives_a_row_a_turn(bench: Bench) -> None:
    base = read_base(bench.base)
    base.tokenizer.chat_template = FORGETFUL
    texts = [trained_text(base, example) for example in examples(bench, base, MENDED)]
    assert texts == ["call weather<|im_end|>", "Yes, 9 mm.<|im_end|>"]


def test_a_run_on_all_turns_learns_each_of_them(bench: Bench) -> None:
    found = []
    for turns in ("last", "all"):
        plain = [{key: value for key, value in message.items() if key != "train"} for message in MENDED["messages"]]
        ended = bench.train([{"messages": plain}], turns=turns, steps=1, batch=1)
        assert ended.status == EXIT_OK, ended.last
        found.append(ended.last.data["loss"])
    assert found[0] != found[1], "the loss is over other tokens"


@pytest.mark.parametrize(
    ("turns", "at", "train", "says"),
    [
        ("last", 1, False, 'write turns = "all"'),
        ("all", 5, False, "its last turn is not trained"),
        ("all", 0, False, "on a turn of the assistant"),
        ("all", 1, "no", "true or false"),
    ],
)
def test_a_mark_that_would_not_be_heeded_is_refused(
    bench: Bench, turns: str, at: int, train: object, says: str
) -> None:
    messages = [dict(message) for message in MENDED["messages"]]
    messages[at]["train"] = train
    ended = bench.train([{"messages": messages}], turns=turns)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")
    assert says in ended.last.message
