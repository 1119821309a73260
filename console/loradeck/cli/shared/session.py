"""Commands of a hub: their groups, and the session of each with its options, its connection and its errors."""

import asyncio
import functools
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec

import click

from loradeck.cli.shared.exits import Exit, misused, refused
from loradeck.cli.shared.options import chosen_context, connection_options, expected_errors, wants_json
from loradeck.cli.shared.output import Output
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.errors import ApiError, ClientError
from loradeck.client.setting_errors import did_you_mean
from loradeck.rules.errors import Refused

P = ParamSpec("P")


class Noun(click.Group):
    """A group of commands about one noun, in which `list` also works for `ls`, as many people type it.

    Its line of help stands in `loradeck.cli.COMMANDS`.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; `list` gives `ls`."""
        found = super().get_command(ctx, cmd_name)
        return super().get_command(ctx, "ls") if found is None and cmd_name == "list" else found


@dataclass(frozen=True, kw_only=True)
class Session:
    """One command's connection to one hub."""

    api: HubApi
    context: Context
    out: Output

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.out.as_json

    def confirm(self, question: str, *, yes: bool) -> None:
        """Continues only after a yes, given by the flag or by a person at a terminal.

        Raises:
            CliError: there is nobody to ask (exit 2).
            click.exceptions.Exit: the answer was no (exit 1).
        """
        if yes:
            return
        if not self.interactive:
            raise misused(
                "this asks first, and there is nobody to ask",
                where=question,
                fix="give --yes, or run it in a terminal without --json",
                code="not_confirmed",
            )
        # The event loop's own handler would only note a Ctrl-C, and the question would go on waiting for an answer.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            agreed = click.confirm(question, default=False, err=True)
        finally:
            signal.signal(signal.SIGINT, before)
        if not agreed:
            click.echo("nothing was changed", err=True)
            raise click.exceptions.Exit(Exit.REFUSED)

    def guard(self) -> None:
        """Checks that the context is not marked read-only. Raises: CliError: it is."""
        if self.context.read_only:
            raise misused(
                "this context is read-only",
                where=f"context {self.context.name!r}",
                fix="use another context, or clear read_only in the console's settings",
                code="read_only",
            )


def hub_command(body: Callable[Concatenate[Session, P], Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Turns a coroutine function that takes a `Session` into a click callback with the connection options."""

    @functools.wraps(body)
    def callback(*args: P.args, **kwargs: P.kwargs) -> None:
        ctx = click.get_current_context()

        async def work() -> None:
            context = chosen_context(ctx)
            async with HubApi.to(context) as api:
                session = Session(api=api, context=context, out=Output(as_json=wants_json(ctx)))
                try:
                    await body(session, *args, **kwargs)
                except ApiError as error:
                    raise await _with_nearest_tenant(api, error) from None
                except Refused as error:  # by a rule that was asked here
                    raise refused(error.title, where=error.detail, fix=error.fix, code=error.code) from None

        with expected_errors(as_json=wants_json(ctx)):
            asyncio.run(work())

    return connection_options(callback)


async def _with_nearest_tenant(api: HubApi, error: ApiError) -> ApiError:
    """Adds the tenant that was probably meant to an error about an unknown tenant."""
    name = error.problem.context.get("tenant")
    if error.code != "unknown_tenant" or not isinstance(name, str):
        return error
    try:
        near = did_you_mean(name, [state.name for state in await api.tenants()])
    except ClientError:
        return error
    return ApiError(error.problem.model_copy(update={"fix": error.problem.fix + near}))


def writes(body: Callable[Concatenate[Session, P], Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Makes a `hub_command` that changes something: in a read-only context it is refused before anything is sent."""

    @functools.wraps(body)
    async def guarded(session: Session, /, *args: P.args, **kwargs: P.kwargs) -> None:
        session.guard()
        await body(session, *args, **kwargs)

    return hub_command(guarded)
