"""`loradeck-agent`: the agent of one node, and the commands for a node whose hub is away.

Exit status: 0 done; 1 refused or failed, with the reason on stderr; 2 wrong usage or configuration; 3 the
process that was asked does not run.
"""

import click

import loradeck_agent
from loradeck_agent.cli.join import join
from loradeck_agent.cli.pin import pin
from loradeck_agent.cli.run import run
from loradeck_agent.cli.status import status
from loradeck_agent.cli.stop import stop
from loradeck_agent.cli.trace import trace

__all__ = ["main"]

EPILOG = "Exit status: 0 done; 1 refused or failed; 2 wrong usage or configuration; 3 it does not run."


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(loradeck_agent.__version__, prog_name="loradeck-agent")
def main() -> None:
    """Serves the releases a Loradeck hub names on this node, and proves that it does."""


for command in (run, join, stop, status, pin, trace):
    main.add_command(command)
