"""Commands on the caller's own sign-in: `login`, `logout`, `whoami`."""

import asyncio

import click

from loradeck.cli.shared.exits import misused
from loradeck.cli.shared.options import chosen_context, connection_options, expected_errors, wants_json
from loradeck.cli.shared.output import Output, utc
from loradeck.cli.shared.session import Session, hub_command
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.errors import ApiError, ClientError
from loradeck.client.sign_in import SignInFile, revoke, sign_in
from loradeck.schemas.state import Me


@click.command()
@connection_options
@click.pass_context
def login(ctx: click.Context) -> None:
    """Sign in at the provider of a context.

    Prints an address and a code, to be confirmed in a browser on any machine, and waits. The tokens are kept in a file
    of mode 0600 and refreshed. Not needed for a context with a token file, nor on the hub's own host.
    """

    async def work() -> None:
        context = _with_provider(chosen_context(ctx))
        out = Output(as_json=wants_json(ctx))

        def show(address: str, code: str) -> None:
            click.echo(f"open {address}\nand confirm the code {code}", err=True)

        signed_in = await asyncio.to_thread(sign_in, context, show)
        try:
            async with HubApi.to(context) as api:
                me = await api.me()
        except ApiError:
            SignInFile(context).remove()  # the hub does not know this person
            raise
        out.answer(
            me, f"signed in as {_who(me)}, until {utc(int(signed_in.expires_s * 1000))} and refreshed from then on"
        )

    with expected_errors(as_json=wants_json(ctx)):
        asyncio.run(work())


@click.command()
@connection_options
@click.pass_context
def logout(ctx: click.Context) -> None:
    """End a sign-in, here, at the hub and at the provider."""

    async def work() -> None:
        context = _with_provider(chosen_context(ctx))
        out, file = Output(as_json=wants_json(ctx)), SignInFile(context)
        signed_in = file.read()
        told = {"here": signed_in is not None, "hub": False, "provider": False}
        if signed_in is not None:
            try:
                async with HubApi.to(context) as api:
                    await api.sign_out()
                told["hub"] = True
            except ClientError as error:
                out.alarm(f"the hub was not told ({error.title}): the token is good there until it expires")
            with file.locked():
                signed_in = file.read()
                if signed_in is not None:
                    told["provider"] = await asyncio.to_thread(revoke, file, signed_in)
                file.remove()
        out.answer(told, "signed out" if told["here"] else "nobody was signed in here")

    with expected_errors(as_json=wants_json(ctx)):
        asyncio.run(work())


@click.command()
@hub_command
async def whoami(s: Session) -> None:
    """Show who you are at the hub, and your roles."""
    me = await s.api.me()
    s.out.answer(me, _who(me))
    if me.backward:
        s.out.alarm(
            "the sign-in has expired and its provider is silent: only R, F and hold are left, for a day at most"
        )


def _who(me: Me) -> str:
    if me.tenants is None:
        return f"{me.actor}, {me.role.value} at all tenants"
    return f"{me.actor}, " + ", ".join(f"{role.value} at {tenant}" for tenant, role in sorted(me.tenants.items()))


def _with_provider(context: Context) -> Context:
    """The context, whose people sign in. Raises: CliError: it names no provider."""
    if context.issuer is None or context.token_file is not None:
        raise misused(
            "nobody signs in for this hub",
            where=f"context {context.name!r}",
            fix="give the context an issuer and a client_id, and no token file: docs/cli.md",
        )
    return context
