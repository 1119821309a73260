"""Levels and slots have one word each, the same in commands, console and documents, which docs/concepts.md explains."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from loradeck.cli.commands import capacity as command
from loradeck.schemas.replica_state import AckLevel
from loradeck.schemas.routing import RouteResidency
from loradeck.schemas.state import Readiness
from loradeck.tui.lines import capacity as screen

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
SHOWN = [path for room in ("cli", "tui", "client") for path in (ROOT / "console" / "loradeck" / room).rglob("*.py")]

WORDS = {
    *(level.value for level in (*AckLevel, *RouteResidency)),
    *(readiness.value for readiness in Readiness if readiness is not Readiness.UNKNOWN),
    *("slot", "level", "pool", "assignment", "residency", "replica", "cold", "colder", "cold start", "hit rate"),
    *("turned out", "hint", "capacity", "pin", "gateway"),
}
"""What code and persons call levels, slots and pools by."""

OTHERS = {
    r"evict(?:s|ed|ions?)?": "turned out",
    r"(?:pre-?|hot-?|off)load(?:s|ed|ing)?": "load",
    r"swap(s|ped)? (in|out)": "load, turned out",
    r"(GPU|LoRA|device|memory) slots?": "batch slots, slots",
    r"host memory|CPU (cache|memory)": "the level host",
    r"node (group|pool|set)s?": "pool",
    r"residency (is )?(un|not )known": "levels unknown",
}
"""Words that would be a second one for the same thing: pattern -> the word to use."""

ELSEWHERE = re.compile(r"`[^`\n]*`|max-cpu-loras.*|.*host memory for.*")
"""What names other people's things: code in a document."""


@pytest.mark.parametrize("word", sorted(WORDS))
def test_the_glossary_has_a_meaning_for_the_word(word: str) -> None:
    defined = re.findall(r"\*\*?([^*]+?)\.?\*\*?", GLOSSARY.replace("\n", " "))
    terms = {term.strip().lower() for words in defined for term in words.split(",")}
    assert terms & {word, word.replace("-", " ")}, word


def test_no_second_word_is_shown_or_written_for_the_same_thing() -> None:
    others = re.compile(rf"\b(?:{'|'.join(OTHERS)})\b", re.IGNORECASE)
    found = []
    for path in (*PAGES, *SHOWN):
        text = path.read_text(encoding="utf-8")
        if not others.search(text):
            continue
        if path.suffix == ".py":  # what is shown is in its strings
            nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
            text = "\n".join(node.value for node in nodes if isinstance(node.value, str))
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in others.finditer(ELSEWHERE.sub("", text))]
    assert found == [], f"say instead: {OTHERS}"


def test_the_capacity_screen_and_command_have_the_same_columns() -> None:
    source = ast.parse(Path(command.__file__).read_text(encoding="utf-8"))
    listed = {node.value for node in ast.walk(source) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {column.name for column in screen.COLUMNS} - {"POOL OR NODE"} <= listed
