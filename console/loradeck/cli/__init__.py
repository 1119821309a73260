"""The `loradeck` command: the console without arguments, and a verb for every key.

`loradeck --help` imports this module alone; a command's own module is imported when it runs.
"""

import importlib
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import click
from click.shell_completion import CompletionItem

from loradeck.cli.shared.exits import MEANING, Exit
from loradeck.cli.shared.options import connection_options, wants_json

COMMANDS = {
    "rollback": ("moves:rollback", "Put a route back to the release its preview names."),
    "undo": ("moves:undo", "Undo a move: release, hold and quarantine as they were before it."),
    "fallback": ("moves:fallback", "Move a route to its base alone, if the route allows it."),
    "promote": ("moves:promote", "Put a release on a route, after preparing it on every replica."),
    "candidate": ("candidate", "Give a release to a share of a route's callers, or let it shadow the live one."),
    "rewind": ("moves:rewind", "Put pointers back as they were at a rev or a time, all in one transaction."),
    "campaign": (
        "campaign",
        "Move routes to another base, or nodes to another engine build, in waves; rewind routes together.",
    ),
    "move": ("moves:outcome", "Look up a move whose answer was lost, by its key."),
    "hold": ("pointer:hold", "Keep pipelines from promoting on a route."),
    "release-hold": ("pointer:release_hold", "Let pipelines promote on a route again."),
    "lift-flags": ("pointer:lift_flags", "Lift what the flags of a time hold against releases, with a reason."),
    "lift": ("pointer:lift", "End the quarantine and the breach of a release, with a reason."),
    "incident": ("incident", "Open, list, show, note, close and export incidents."),
    "feedback": ("feedback", "List, import and erase feedback on answers."),
    "loop": ("loop", "Show where each tenant stands between a signal and new weights, and what is next."),
    "backlog": ("backlog", "List and export answers to be labelled; build datasets of the labels."),
    "preference": (
        "preference",
        "Import what raters have judged, settle what they differ on, build datasets of it, remove a rater.",
    ),
    "freshness": (
        "freshness",
        "Say what the freshness meters of a tenant's live releases show, and whether to train again.",
    ),
    "decide": (
        "decide",
        "Measure prompts, retrieved text and weights on one suite, and say whether to train: see docs/decide.md.",
    ),
    "open": ("tui:open_", "Start the console on a tenant's row."),
    "tenant": ("tenant", "Create, suspend, resume, offboard, list tenants; caller keys."),
    "route": ("route", "List, set and show tenants' routes."),
    "release": ("release", "List and show releases."),
    "adapter": ("adapter", "Import, list, show, compare, sign and deprecate adapter versions."),
    "bundle": ("bundle", "Carry an adapter version to a hub that no network reaches."),
    "base": ("base", "Register and list base models."),
    "dataset": ("dataset", "Register and list datasets; erase rows."),
    "suite": ("suite", "Register and list suites."),
    "gate": ("gate", "Set a route's gate, and show the results of candidates."),
    "canary": ("canary", "Suggest canaries; see and withdraw what nodes recorded."),
    "job": (
        "job",
        "Train, sweep, generate, evaluate, judge, merge, compare, list, show, follow, cancel, resume jobs; print logs.",
    ),
    "plan": ("plan", "Calculate how many adapters fit in memory."),
    "check": ("check", "Check that adapter, base, chat template and engine fit together; asks no hub."),
    "node": ("node", "List, let in, drain, cordon, relabel, revoke, forget nodes."),
    "pool": ("pool", "Set, list, show and remove pools of nodes."),
    "sku": ("sku", "Serve merged or fully trained weights under a name of their own."),
    "placement": ("placement", "Explain where routes of pools are, and preview what would move."),
    "capacity": ("capacity", "Show what nodes and pools hold at each level; plan a promote or new customers."),
    "notice": ("notice", "List what people were told; channels, tests and silences."),
    "event": ("event", "List, annotate and countersign events of the log; export a timeline."),
    "explain": ("explain", "Say which weights, data and gates stood behind an answer."),
    "audit": ("event:audit", "Read, check and forward the audit trail: who did what at the hub."),
    "hub": ("hub", "Run a hub on this machine; certificates, recovery, backup, garbage."),
    "sim": ("loradeck.testing.simulated_fleet:sim", "Simulate a fleet, to try a hub and a console with one."),
    "login": ("sign_in:login", "Sign in at the provider of a context."),
    "logout": ("sign_in:logout", "End a sign-in, here, at the hub and at the provider."),
    "whoami": ("sign_in:whoami", "Show who you are at the hub, and your roles."),
    "token": ("token", "Create, list and revoke tokens (on the hub's host)."),
    "completion": ("completion", "Print the completion script of a shell."),
}
"""Name -> (its module or 'module:attribute', its line in `loradeck --help`), in the order of that help."""


class _Commands(click.Group):
    """The group of all commands, each of which is imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the help; imports none."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command and returns it, a group with its one line of help; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        where, help_ = COMMANDS[cmd_name]
        module, _, attribute = where.partition(":")
        path = module if "." in module else f"loradeck.cli.commands.{module}"
        command = getattr(importlib.import_module(path), attribute or cmd_name)
        assert isinstance(command, click.Command)
        command.help = command.help or help_
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command of the line; an unknown name is answered with the nearest known one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            # click suggests only among commands that it holds, and these are not imported yet.
            near = get_close_matches(args[0], COMMANDS, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands in the help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completes names of commands, without importing them."""
        names = [
            CompletionItem(name, help=help_) for name, (_, help_) in COMMANDS.items() if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


# After a line of only \\b click keeps the line breaks that follow.
_EXITS = "\b\nExit status:\n" + "\n".join(f"  {status.value:<4} {MEANING[status]}" for status in Exit)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        from loradeck.client.build import build

        click.echo(f"loradeck {version('loradeck')} build {build()}")
        ctx.exit()


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXITS,
)
@click.option("--once", is_flag=True, help="Print the state and exit.")
@click.option("--read-only", is_flag=True, help="Start a console from which nothing can be changed.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version and exit."
)
@connection_options
@click.pass_context
def cli(ctx: click.Context, once: bool, read_only: bool) -> None:
    """See which base + LoRA adapter every tenant is really served, and put a bad one back.

    Without a command: the console.
    """
    if ctx.invoked_subcommand is not None:
        if once or read_only:
            raise click.UsageError("--once and --read-only stand alone, without a command")
        return
    if once:
        from loradeck.cli.shared.once import once as print_once

        print_once()
        return
    if wants_json(ctx):
        raise click.UsageError("--json needs a command; add --once to print the state")
    from loradeck.cli.commands.tui import start

    start(ctx, read_only=read_only)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: runs the command line and exits with a documented status."""
    try:
        status = cli.main(args=list(argv) if argv is not None else None, prog_name="loradeck", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(Exit.USAGE)
    except (click.Abort, KeyboardInterrupt):  # the latter is a Ctrl-C while click reports the first
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # and one more must not end it with another status, or a traceback
        click.echo("interrupted", err=True)
        sys.exit(Exit.INTERRUPTED)
    sys.exit(status if isinstance(status, int) else Exit.OK)
