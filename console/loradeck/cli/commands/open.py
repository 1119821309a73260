"""`loradeck open`: the console, started on one row."""

from __future__ import annotations

import sys

import click

from loradeck.cli.commands.tui import start
from loradeck.cli.shared.naming import moment, pointer
from loradeck.cli.shared.options import connection_options, exit_on_error


@click.command("open")
@click.argument("tenant")
@click.argument("route", required=False)
@click.option("--at", metavar="TIME", help="A time with its zone, such as 02:58Z, whose events are shown.")
@click.option("--read-only", is_flag=True, help="Nothing can be changed from this console.")
@connection_options
@click.pass_context
def open_(ctx: click.Context, tenant: str, route: str | None, at: str | None, read_only: bool) -> None:
    """Start the console on a tenant's row."""

    def checked() -> str:
        place = str(pointer(tenant, route))
        return f"{place}@{moment(at, interactive=sys.stdin.isatty())}" if at else place

    place = ""

    def work() -> None:
        nonlocal place
        place = checked()

    exit_on_error(work, as_json=False)
    start(ctx, read_only=read_only, at=place)
