"""A group of commands about one noun. `list` is taken for `ls`, as many people type it."""

from __future__ import annotations

import click


class Noun(click.Group):
    """`loradeck token ls` and the like."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name == "list":
            return super().get_command(ctx, "ls")
        return found
