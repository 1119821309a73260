"""`loradeck-agent trace`: who was served by which release, request by request."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import click

from loradeck.schemas.ids import short
from loradeck_agent.cli.shared import config_option
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.router.client import RouterControl


@click.command()
@click.option("--tenant", help="Only this tenant's requests.")
@click.option("--after", type=int, default=0, help="Only rows with a higher seq.")
@click.option("--last", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest last.")
@click.option("--json", "as_json", is_flag=True, help="All rows as JSON.")
@config_option
def trace(config: AgentConfig, tenant: str | None, after: int, last: int, as_json: bool) -> None:
    """Prints the router's trace: the newest 10,000 requests it admitted."""
    query = urlencode({"after": after, **({"tenant": tenant} if tenant else {})})
    rows = asyncio.run(_rows(config, query))
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows[-last:]:
        at = datetime.fromtimestamp(row["admitted_ms"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
        ms = row["finished_ms"] - row["admitted_ms"]
        bad = " BAD" if row["bad"] else ""
        click.echo(
            f"{row['seq']:>7} {at}Z {row['tenant']}/{row['route']} g{row['generation']} {short(row['release'])} "
            f"{row['replica']} {row['status']} {ms} ms{bad}"
        )


async def _rows(config: AgentConfig, query: str) -> list[dict[str, Any]]:
    with contextlib.closing(RouterControl(StateFolder(config.state))) as router:
        rows: list[dict[str, Any]] = (await router.trace(query))["rows"]
        return rows
