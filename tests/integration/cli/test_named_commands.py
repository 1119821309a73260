"""Whoever is told to run a command at three in the morning runs one that exists.

Refusals, alerts, the console and the documents name commands; every name and option in them is looked up.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from loradeck.cli import cli
from loradeck_agent.cli import main as agent_cli

ROOT = Path(__file__).parents[3]
PROGRAMS = {"loradeck": cli, "loradeck-agent": agent_cli}
NAMED = re.compile(r"""(?:["`]|^[ ]{0,8}|\bor )(loradeck|loradeck-agent) ((?!import )[^"`\n]*)""", re.MULTILINE)
"""A command in quotes or backticks, on a line of its own, or after another one."""

END = re.compile(r"[,;:()\[\]{}|#>]|\. |\.$| (?:or|and|to|on|at|in|is|says|lists) ")
"""Where a sentence goes on after a command."""


def texts() -> Iterator[tuple[str, str]]:
    for folder, ending in (("docs", "md"), ("docs", "yml"), ("console", "py"), ("agents", "py"), ("examples", "md")):
        for path in sorted((ROOT / folder).rglob(f"*.{ending}")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    yield "README.md", (ROOT / "README.md").read_text(encoding="utf-8")


def unknown(program: str, words: list[str]) -> str | None:
    """The first word that is no command, or no option of it; None where all are."""
    command: click.Command = PROGRAMS[program]
    found = [program]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(click.Context(command), words[0])
        if below is None:
            return None if command.invoke_without_command and len(found) > 1 else words[0]
        command = below
        found.append(words.pop(0))
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    return next((option for option in given if option not in options | {"--help"}), None)


def test_every_command_that_anybody_is_told_to_run_exists() -> None:
    wrong, seen = [], 0
    for name, text in texts():
        for match in NAMED.finditer(text):
            said = END.split(match[2], maxsplit=1)[0]
            words = said.split()
            if words and re.fullmatch(r"[a-z-]+", words[0]):
                seen += 1
                missing = unknown(match[1], words)
                if missing is not None:
                    wrong.append(f"{name}: {match[1]} {said.strip()!r} has no {missing!r}")
    assert not wrong, "\n".join(wrong)
    assert seen > 150, "commands are still found"


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ("loradeck dataset rows NAME --containing TEXT", "rows"),
        ("loradeck rollback acme --forec", "--forec"),
        ("loradeck-agent pim acme", "pim"),
        ("loradeck node unpin gpu-04 acme --reason WHY", None),
    ],
)
def test_what_does_not_exist_is_told(said: str, missing: str | None) -> None:
    program, *words = said.split()
    assert unknown(program, words) == missing


def test_each_scenario_of_the_mission_names_its_commands_and_says_what_is_missing() -> None:
    table = (ROOT / "docs" / "seeds.md").read_text(encoding="utf-8").splitlines()
    first = next(at for at, line in enumerate(table) if line.startswith("|---")) + 1
    rows = [line.strip("| ").split(" | ") for line in itertools.takewhile(str.strip, table[first:])]
    assert {row[1] for row in rows} <= {"works", "works, no GPU", "part"}
    named = {int(number) for row in rows for number in re.findall(r"\b1[67]\d\b", row[0])}
    assert named == set(range(161, 176))
    assert [row[0] for row in rows if "`" not in row[2]] == []
    assert [row[0] for row in rows if row[1] != "works" and not (len(row) > 3 and row[3].strip(" |"))] == []


def test_every_command_of_a_scenario_has_all_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = (ROOT / "docs" / "seeds.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    seen = 0
    for said in re.findall(r"`(loradeck(?:-agent)? [^`]+)`", table):
        program, *words = shlex.split(said)
        for word in words:
            if re.fullmatch(r"[A-Z]+|\w+\.(jsonl|json|toml|txt|gguf|bundle)", word):
                Path(word).touch()
            if word == "models":
                Path(word).mkdir(exist_ok=True)
        command: click.Command = PROGRAMS[program]
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            below = command.get_command(click.Context(command), words.pop(0))
            assert below is not None, said
            command = below
        if "--help" not in words:
            seen += 1
            command.make_context(said, words)  # raises what a person would be told
    assert seen > 80
