"""Levels, slots and pools have one word each, explained in docs/concepts.md: in commands, console, documents, demo."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from loradeck.cli.commands import capacity as command
from loradeck.schemas.replica_state import AckLevel
from loradeck.schemas.state import Readiness
from loradeck.schemas.table import RouteResidency
from loradeck.tui.lines.capacity import CAPACITY_COLUMNS

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
SHOWN = [
    path
    for room in (
        "console/loradeck/tui",
        "console/loradeck/client",
        "console/loradeck/cli",
        "agents/loradeck_agent/cli",
        "examples/incident",
    )
    for path in sorted((ROOT / room).rglob("*.py"))
]
"""Modules whose strings a user reads."""

WORDS = {
    *(level.value for level in (*AckLevel, *RouteResidency)),
    *(readiness.value for readiness in Readiness if readiness is not Readiness.UNKNOWN),
}
"""The values by which code knows levels and residencies, and which a user reads as they are."""

OTHERS = {
    r"evict(?:s|ed|ions?)?": "turned out",
    r"(?:pre-?|hot-?|off)load(?:s|ed|ing)?": "load",
    r"swap(s|ped)? (in|out)": "load, turned out",
    r"(GPU|LoRA|device|memory) slots?": "batch slots, slots",
    r"host memory|CPU (cache|memory)": "the level host",
    r"(node|host|replica) (group|pool|set)s?": "pool",
    r"(pool )?members? of (a|the|its|their) pools?": "nodes of the pool",
    r"rebalanc(e[sd]?|ing)": "assigned",
    r"evacuat(e[sd]?|ing|ion)": "drain",
    r"taken out of (a|the|its) pool|before one is taken out": "drained",
    r"(lazy|lazily) load(s|ed|ing)?": "on demand",
    r"always[- ](on|resident|loaded)": "always",
    r"(memory|hot|warm|cold) tiers?": "level",
    r"residency (is )?(un|not )known": "levels unknown",
}
"""Words that would be a second one for the same thing: pattern -> the word to use."""

ELSEWHERE = re.compile(r"`[^`\n]*`|max-cpu-loras.*|.*host memory for.*")
"""What names other people's things: code in a document."""


def strings(path: Path) -> str:
    """What a module shows is in its strings."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant))
    return "\n".join(node.value for node in nodes if isinstance(node.value, str))


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
        if path.suffix == ".py":
            text = strings(path)
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in others.finditer(ELSEWHERE.sub("", text))]
    assert found == [], f"say instead: {OTHERS}"


def test_the_capacity_screen_and_command_have_the_same_columns() -> None:
    source = ast.parse(Path(command.__file__).read_text(encoding="utf-8"))
    listed = {node.value for node in ast.walk(source) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {column.name for column in CAPACITY_COLUMNS} - {"POOL OR NODE"} <= listed
