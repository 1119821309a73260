"""Start of the console from the command line."""

from __future__ import annotations

import sys

import click

from loradeck.cli.shared.options import chosen_context, exit_on_error


def start(ctx: click.Context, *, read_only: bool, at: str | None) -> None:
    """Runs the console until it is left. `at` is 'tenant/route', the row it starts on.

    Raises:
        click.exceptions.Exit: stdout or stdin is no terminal (2), the settings are unusable (2), or the console's own
            status.
    """

    def work() -> None:
        context = chosen_context(ctx)
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            from loradeck.cli.shared.exits import misused

            raise misused(
                "the console needs a terminal",
                where="stdin or stdout is not one",
                fix="loradeck --once prints the state; add --json for programs",
                code="no_terminal",
            )
        from loradeck.tui.app import run

        status = run(context, read_only=read_only, at=at)
        if status:
            raise click.exceptions.Exit(status)

    exit_on_error(work, as_json=False)
