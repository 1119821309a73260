"""Options that every command has. Imports nothing heavy, since `loradeck --help` imports it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from loradeck.client.config import Context

F = TypeVar("F", bound=Callable[..., Any])

_META = "loradeck."


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    # `ctx.meta` is one dict for the whole command line, so an option may stand before or after the command.
    if value:
        ctx.meta[_META + str(param.name)] = value


def together(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Makes one decorator of several options; the last of them comes first in a command's help."""
    return lambda command: functools.reduce(lambda made, option: option(made), options, command)


_remembered = functools.partial(click.option, expose_value=False, callback=_remember)

json_option = _remembered("--json", "as_json", is_flag=True, help="Print JSON.")

connection_options = together(
    json_option,
    _remembered("--token-file", type=click.Path(path_type=Path), help="File with the token, mode 0600."),
    _remembered("--hub", metavar="URL|unix:PATH", help="The hub."),
    _remembered("--context", metavar="NAME", help="Context from the settings."),
)
"""Adds --context, --hub, --token-file and --json to a command; they may stand anywhere on the line."""


def chosen_context(ctx: click.Context) -> Context:
    """The context that the command line names. Raises: ConfigError: see `client.config.resolve`."""
    from loradeck.client.config import resolve

    return resolve(
        context=ctx.meta.get(_META + "context"),
        hub=ctx.meta.get(_META + "hub"),
        token_file=ctx.meta.get(_META + "token_file"),
    )


def wants_json(ctx: click.Context) -> bool:
    """Tells whether --json stands anywhere on the line."""
    return bool(ctx.meta.get(_META + "as_json"))


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
ticket_option = click.option("--ticket", metavar="ID", help="Change ticket under which it is made.")
incident_option = click.option("--incident", metavar="ID", help="Incident it belongs to.")
override_option = click.option(
    "--override",
    is_flag=True,
    help="Pass a gate, a freeze window, an incident about a related release, short memory and nodes left behind, and "
    "nothing else. Needs --reason.",
)

break_glass_option = click.option(
    "--break-glass",
    metavar="REASON",
    help="On the hub's host: act alone where the route asks for two people. Red until somebody else countersigns it.",
)


def reason_option(*, required: bool = False) -> Callable[[F], F]:
    """Adds --reason, which the event keeps for ever."""
    presence: dict[str, Any] = {"required": True} if required else {"default": ""}
    return click.option("--reason", metavar="TEXT", help="Kept in the event.", **presence)


@contextmanager
def expected_errors(*, as_json: bool) -> Iterator[None]:
    """Prints an expected error of the block to stderr, and exits with its status.

    Raises: click.exceptions.Exit: after an expected error.
    """
    try:
        yield
    except Exception as error:
        from loradeck.cli.shared.exits import print_error, verdict

        known = verdict(error)
        if known is None:
            raise
        status, problem = known
        print_error(problem, as_json=as_json)
        raise click.exceptions.Exit(status) from None
