"""The command line without anything running: help, exit statuses, and errors that say what to do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loradeck_agent.cli import COMMANDS, main


@pytest.fixture
def config() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        path = Path(folder) / "agent.toml"
        path.write_text(
            'node = "gpu-01"\nhub = "http://127.0.0.1:1"\ntoken = "t"\nstate = "s"\n'
            '[router]\nlisten = "127.0.0.1:1"\n[[engine]]\nname = "e0"\nbase = "none"\n'
        )
        yield path


def call(*args: str) -> Result:
    return CliRunner().invoke(main, args)


@pytest.mark.parametrize("command", [*COMMANDS, None])
def test_every_command_has_help(command: str | None) -> None:
    result = call(*([command] if command else []), "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert len(result.output.splitlines()) > 4


@pytest.mark.parametrize("command", ["run", "stop", "status", "trace"])
def test_an_absent_configuration_is_exit_2_and_says_which_file(command: str, tmp_path: Path) -> None:
    result = call(command, "--config", str(tmp_path / "none.toml"))
    assert result.exit_code == 2
    assert "config_unreadable" in result.stderr
    assert "none.toml" in result.stderr


def test_run_refuses_a_token_that_others_may_read_and_starts_nothing(config: Path) -> None:
    token = config.parent / "t"
    token.write_text("secret-token")
    token.chmod(0o644)
    result = call("run", "--config", str(config))
    assert result.exit_code == 2
    assert f"-> chmod 0600 {token}" in result.stderr
    assert "secret-token" not in result.output + result.stderr
    assert not (config.parent / "s").exists()


def test_run_refuses_an_absent_base_and_starts_nothing(config: Path) -> None:
    token = config.parent / "t"
    token.write_text("secret-token")
    token.chmod(0o600)
    result = call("run", "--config", str(config))
    assert result.exit_code == 2
    assert "base_missing" in result.stderr
    assert not (config.parent / "s").exists()


def test_where_nothing_runs_status_is_exit_3_and_says_so(config: Path) -> None:
    result = call("status", "--config", str(config))
    assert result.exit_code == 3
    assert "agent   does not run" in result.output
    assert "router  does not run" in result.output
    assert "engine  e0 (gpu-01): does not run" in result.output
    assert not (config.parent / "s").exists(), "looking makes no folders"


def test_where_nothing_runs_stop_is_done(config: Path) -> None:
    result = call("stop", "--config", str(config))
    assert (result.exit_code, result.output) == (0, "nothing ran\n")


def test_a_trace_without_a_router_is_exit_3(config: Path) -> None:
    result = call("trace", "--config", str(config))
    assert result.exit_code == 3
    assert "unreachable" in result.stderr


def test_a_pin_needs_a_reason_that_says_something(config: Path) -> None:
    assert call("pin", "acme", "production", "--to", "v1", "--config", str(config)).exit_code == 2
    result = call("pin", "acme", "production", "--to", "v1", "--reason", "  ", "--config", str(config))
    assert result.exit_code == 1
    assert "reason_required" in result.stderr
