"""`loradeck-agent`: the agent of one node, and the commands for a node whose hub is away.

Exit status: 0 done; 1 refused or failed, with the reason on stderr; 2 wrong usage or configuration; 3 the
process that was asked does not run.
"""

from importlib import import_module

import click

import loradeck_agent

__all__ = ["main"]

EPILOG = "Exit status: 0 done; 1 refused or failed; 2 wrong usage or configuration; 3 it does not run."

COMMANDS = ("run", "gateway", "join", "stop", "restart-router", "install-service", "status", "pin", "trace", "gguf")


class Commands(click.Group):
    """The commands. Each is imported when it is used, so that the daemon does not hold the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a name; None: there is none."""
        if name not in COMMANDS:
            return None
        module = name.replace("-", "_")
        command: click.Command = getattr(import_module(f"loradeck_agent.cli.{module}"), module)
        return command


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from loradeck.client.build import build

        click.echo(f"loradeck-agent {loradeck_agent.__version__} build {build()}")
        ctx.exit()


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version and exit."
)
def main() -> None:
    """Serves the releases a Loradeck hub names on this node, and proves that it does."""
