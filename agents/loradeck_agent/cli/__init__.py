"""`loradeck-agent`: the agent of one node, and the commands for a node whose hub is away.

Exit status: 0 done; 1 refused or failed, with the reason on stderr; 2 wrong usage or configuration; 3 the
process that was asked does not run.
"""

import click

import loradeck_agent
from loradeck_agent.cli.join import join
from loradeck_agent.cli.pin import pin
from loradeck_agent.cli.restart_router import restart_router
from loradeck_agent.cli.run import run
from loradeck_agent.cli.status import status
from loradeck_agent.cli.stop import stop
from loradeck_agent.cli.trace import trace

__all__ = ["main"]

EPILOG = "Exit status: 0 done; 1 refused or failed; 2 wrong usage or configuration; 3 it does not run."


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from loradeck.client.build import build

        click.echo(f"loradeck-agent {loradeck_agent.__version__} build {build()}")
        ctx.exit()


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version and exit."
)
def main() -> None:
    """Serves the releases a Loradeck hub names on this node, and proves that it does."""


for command in (run, join, stop, restart_router, status, pin, trace):
    main.add_command(command)
