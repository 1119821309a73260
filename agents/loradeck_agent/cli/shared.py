"""The configuration option of every command of `loradeck-agent`, and the exit status of its errors."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from loradeck_agent.host.config import DEFAULT_CONFIG, AgentConfig
from loradeck_agent.host.errors import AgentError, ConfigError, Unreachable

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3

Command = TypeVar("Command", bound=Callable[..., Any])


log_level_option = click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)


def config_option(command: Command) -> Command:
    """`--config FILE`, given to the command as a checked `config`. Errors end it with their exit status."""

    @functools.wraps(command)
    def checked(config_path: Path, **options: Any) -> Any:
        try:
            return command(config=AgentConfig.load(config_path), **options)
        except ConfigError as error:
            fail(error, EXIT_USAGE)
        except Unreachable as error:
            fail(error, EXIT_NOT_RUNNING)
        except AgentError as error:
            fail(error, EXIT_FAILED)

    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        default=DEFAULT_CONFIG,
        show_default=True,
        envvar="LORADECK_AGENT_CONFIG",
        help="The agent's configuration file.",
    )(checked)  # type: ignore[return-value]


def fail(error: AgentError, status: int) -> None:
    """Prints an error with its code, place and remedy, and ends the process."""
    click.echo(f"error: {error.code}: {error.title}", err=True)
    for line in error.detail.splitlines():
        click.echo(f"  {line}", err=True)
    if error.fix:
        click.echo(f"  -> {error.fix}", err=True)
    sys.exit(status)
