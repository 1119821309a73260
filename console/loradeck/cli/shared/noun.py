"""A group of commands about one noun, such as `loradeck token`."""

from __future__ import annotations

import click


class Noun(click.Group):
    """A group of commands in which `list` also works for `ls`, as many people type it."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; `list` gives `ls`."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name == "list":
            return super().get_command(ctx, "ls")
        return found
