"""`loradeck-agent join`."""

import asyncio
import os
from pathlib import Path

import click

from loradeck_agent.cli.shared import config_option
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.secret_file import read_secret


@click.command()
@config_option
@click.option("--token-file", type=click.Path(path_type=Path), help="File with a join token. [default: `token`]")
def join(config: AgentConfig, token_file: Path | None) -> None:
    """Joins the hub's fleet with a join token, or joins again with a new key.

    The key is made here and never leaves this node. An agent that runs uses it at its next connection; keys that were
    bound to the node's name before count no more. `run` joins by itself where `token` holds a join token.
    """
    fix = f"make one on the hub's host: loradeck node token {config.node} --out FILE"
    token = read_secret(token_file, "token", fix) if token_file else config.read_token()
    os.umask(0o077)
    from loradeck_agent.uplink.membership import join as join_fleet  # what it takes is needed once

    joined = asyncio.run(join_fleet(config, token))
    click.echo(f"{joined.node} has joined; its key and certificate are in {config.state / 'identity'}")
