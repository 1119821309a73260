"""The commands, their help and docs/cli.md say the same, and say it quickly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
from scripts.reference import updated
from scripts.reference_commands import commands, reference
from tests.fleets.processes.hub import LORADECK

from loradeck.cli import COMMANDS, cli
from loradeck.cli.shared.exits import MEANING, Exit

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"


def test_every_command_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert updated(text, reference()) == text, "run: python -m scripts.reference"
    for path, _ in commands(cli, "loradeck"):
        assert f"### `{path}`" in text


def test_the_one_line_of_each_command_is_its_own() -> None:
    ctx = click.Context(cli)
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(ctx, name)
        assert command is not None
        assert line == " ".join((command.help or "").split("\n\n")[0].split()), name


def test_every_command_has_help_and_the_common_options() -> None:
    local = {
        "loradeck hub",
        "loradeck hub run",
        "loradeck hub init",
        "loradeck hub drill",
        "loradeck hub install-service",
        "loradeck hub check-artifacts",
        "loradeck hub copy-artifacts",
        "loradeck hub migrate",
        "loradeck hub rotate",
        "loradeck completion",
        "loradeck check",
        "loradeck adapter key",
        "loradeck dataset redact",
        "loradeck notice secret",
    }
    for path, command in commands(cli, "loradeck"):
        assert command.help, path
        names = {option for parameter in command.params for option in parameter.opts}
        common = {"--context", "--hub", "--token-file", "--json"}
        assert path in local or common <= names, path
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (path, parameter.opts)


def test_every_exit_status_is_documented_and_in_the_help() -> None:
    text = DOCS.read_text(encoding="utf-8")
    shown = subprocess.run([LORADECK, "--help"], capture_output=True, text=True, check=True).stdout
    for status in Exit:
        assert f"| {status.value} | {MEANING[status]} |" in text
        assert MEANING[status] in shown


def test_the_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom loradeck.cli import cli\ncli.main(['--help'], standalone_mode=False)\n"
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & {"httpx", "pydantic", "websockets", "textual", "fastapi", "asyncio"}


def test_commands_import_neither_the_hub_nor_the_console_nor_torch() -> None:
    code = (
        "import sys, click\nfrom loradeck.cli import cli\nfrom scripts.reference_commands import commands\n"
        "list(commands(cli, 'loradeck'))\nimport json; print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not {name for name in loaded if name.startswith(("loradeck.hub.", "loradeck.store", "loradeck.tui"))}
    assert not loaded & {"textual", "fastapi", "uvicorn", "torch", "sqlite_utils", "numpy"}


def test_an_unknown_command_and_a_missing_argument_are_wrong_use() -> None:
    for words in (["promte"], ["rollback"], ["token", "create"], ["--nonsense"], ["event", "ls", "--limit", "0"]):
        done = subprocess.run([LORADECK, *words], capture_output=True, text=True, check=False)
        assert done.returncode == Exit.USAGE, words
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_completion_knows_the_commands() -> None:
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run([LORADECK, "completion", shell], capture_output=True, text=True, check=True)
        assert "_LORADECK_COMPLETE" in done.stdout
    env = {"_LORADECK_COMPLETE": "bash_complete", "COMP_WORDS": "loradeck ro", "COMP_CWORD": "1", "PATH": "/usr/bin"}
    done = subprocess.run([LORADECK], capture_output=True, text=True, check=False, env=env)
    assert {line.split(",")[1] for line in done.stdout.split()} == {"rollback", "route"}
