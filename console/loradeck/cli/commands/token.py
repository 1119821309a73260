"""Commands on tokens, which decide what callers may do. Only over the hub's own socket."""

from __future__ import annotations

from pathlib import Path

import click

from loradeck.cli.shared.exits import misused
from loradeck.cli.shared.noun import Noun
from loradeck.cli.shared.options import yes_option
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.secret_file import new_secret_file
from loradeck.cli.shared.session import Session, hub_command, writes
from loradeck.schemas.ids import Role
from loradeck.schemas.tenant import TokenCreate


@click.group(cls=Noun)
def token() -> None:
    """Create, list and revoke tokens (on the hub's host)."""


@token.command()
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What it may do.")
@click.option("--name", required=True, help="Shown as the actor of what it does.")
@click.option("--node", help="The node an agent's token is bound to.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New file for the token, mode 0600.")
@writes
async def create(s: Session, role: str, name: str, node: str | None, out: Path) -> None:
    """Create a token, written to a file of mode 0600; it is never shown."""
    if (node is not None) != (role == Role.AGENT):
        raise misused(
            "a token has a node if and only if its role is agent",
            where=f"--role {role}" + (f" --node {node}" if node else ""),
            fix="add --node NAME, or leave it out",
        )
    with new_secret_file(out) as write:
        created = await s.api.create_token(TokenCreate(name=name, role=role, node=node))
        write(created.token)
    s.out.json({"id": created.id, "name": name, "role": role, "node": node, "file": str(out)})
    s.out.say(f"token {created.id} for {name} ({role}{' on ' + node if node else ''}) is in {out}")


@token.command("ls")
@hub_command
async def ls(s: Session) -> None:
    """List tokens; the hub keeps only their hashes."""
    tokens = await s.api.tokens()
    s.out.json(tokens)
    s.out.table(
        ("ID", "NAME", "ROLE", "NODE", "CREATED", "BY", "STATE"),
        [
            (t.id, t.name, t.role, t.node or "-", utc(t.created_ms), t.created_by, "revoked" if t.revoked else "valid")
            for t in tokens
        ],
        empty="no tokens",
    )


@token.command()
@click.argument("token_id", metavar="ID")
@yes_option
@writes
async def revoke(s: Session, token_id: str, yes: bool) -> None:
    """Revoke a token; its open connections are closed."""
    known = next((t for t in await s.api.tokens() if t.id == token_id), None)
    s.confirm(f"Revoke token {token_id}" + (f" of {known.name} ({known.role})?" if known else "?"), yes=yes)
    await s.api.revoke_token(token_id)
    s.out.answer({"id": token_id, "revoked": True}, f"token {token_id} is revoked")
