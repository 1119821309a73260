"""Start of the console from the command line, and `loradeck open`, which starts it on one row."""

import sys
from collections.abc import Callable

import click

from loradeck.cli.shared.options import chosen_context, connection_options, expected_errors


def start(ctx: click.Context, *, read_only: bool, at: Callable[[], str] | None = None) -> None:
    """Runs the console until it is left. `at` gives 'tenant/route', the row it starts on, and may raise CliError.

    Raises: click.exceptions.Exit: stdout or stdin is no terminal (2), the settings are unusable (2), or the console's
    own status.
    """
    with expected_errors(as_json=False):
        row = at() if at is not None else None
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

        status = run(context, read_only=read_only, at=row)
        if status:
            raise click.exceptions.Exit(status)


@click.command("open")
@click.argument("tenant")
@click.argument("route", required=False)
@click.option("--at", metavar="TIME", help="A time with its zone, such as 02:58Z, whose events are shown.")
@click.option("--read-only", is_flag=True, help="Nothing can be changed from this console.")
@connection_options
@click.pass_context
def open_(ctx: click.Context, tenant: str, route: str | None, at: str | None, read_only: bool) -> None:
    """Start the console on a tenant's row."""

    def place() -> str:
        from loradeck.cli.shared.naming import moment, pointer

        row = str(pointer(tenant, route))
        return f"{row}@{moment(at, interactive=sys.stdin.isatty())}" if at else row

    start(ctx, read_only=read_only, at=place)
