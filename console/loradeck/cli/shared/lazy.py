"""A click group that imports a command's module only when that command runs, so that `loradeck --help` is quick."""

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import click
from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """A group of commands that are imported on use.

    Args:
        lazy: name -> ('module:attribute', one line of help); the command's name where no attribute is given.
        package: where the modules are that no other package is named for.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], package: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy, self._package = lazy, package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the help; imports none."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command and returns it, a group with its one line of help; None for an unknown name."""
        if cmd_name not in self.lazy:
            return None
        where, help_ = self.lazy[cmd_name]
        module, _, attribute = where.partition(":")
        path = module if "." in module else f"{self._package}.{module}"
        command = getattr(importlib.import_module(path), attribute or cmd_name)
        assert isinstance(command, click.Command)
        command.help = command.help or help_
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command of the line; an unknown name is answered with the nearest known one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            # click suggests only among commands that it holds, and these are not imported yet.
            near = get_close_matches(args[0], self.lazy, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands in the help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in self.lazy.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completes names of commands, without importing them."""
        names = [
            CompletionItem(name, help=help_) for name, (_, help_) in self.lazy.items() if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]
