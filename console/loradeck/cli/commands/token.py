"""Commands on tokens, which decide what callers may do. Only over the hub's own socket."""

import time
from pathlib import Path

import click

from loradeck.cli.shared.exits import misused
from loradeck.cli.shared.files import new_secret_file
from loradeck.cli.shared.naming import labels_of, seconds_of
from loradeck.cli.shared.options import yes_option
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.schemas.ids import Resource, Role
from loradeck.schemas.tenant import Credential, TokenCreate, TokenRecord

token = Noun("token")


@token.command()
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What it may do.")
@click.option("--name", required=True, help="Shown as the actor of what it does; no valid token may have it yet.")
@click.option("--node", help="The node an agent's token is bound to.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="Label that its node is placed by, whatever it says. May be repeated. Without: those it says first.",
)
@click.option(
    "--tenant",
    "tenants",
    multiple=True,
    metavar="NAME[=ROLE]",
    help="Only for this tenant, with --role or a lesser role there. May be repeated. Without: for all tenants.",
)
@click.option(
    "--only",
    type=click.Choice([resource.value for resource in Resource]),
    multiple=True,
    help="Only for this part of the API. May be repeated.",
)
@click.option("--expires", metavar="SPAN", help="How long it is valid: 90d, 12h or 30m. Without: until it is revoked.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New file for the token, mode 0600.")
@writes
async def create(
    s: Session,
    role: str,
    name: str,
    node: str | None,
    labels: tuple[str, ...],
    tenants: tuple[str, ...],
    only: tuple[str, ...],
    expires: str | None,
    out: Path,
) -> None:
    """Create a token, written to a file of mode 0600; it is never shown."""
    if (node is not None) != (role == Role.AGENT):
        raise misused(
            "a token has a node if and only if its role is agent",
            where=f"--role {role}" + (f" --node {node}" if node else ""),
            fix="add --node NAME, or leave it out",
        )
    request = TokenCreate(
        name=name,
        role=role,
        node=node,
        labels=labels_of(labels) if labels else None,
        tenants=_roles(tenants, role) if tenants else None,
        resources=tuple(Resource(one) for one in only) or None,
        expires_ms=int((time.time() + seconds_of(expires, "--expires")) * 1000) if expires is not None else None,
    )
    with new_secret_file(out) as write:
        created = await s.api.create_token(request)
        write(created.token)
    s.out.json({"id": created.id, **request.model_dump(mode="json", exclude_none=True), "file": str(out)})
    s.out.say(f"token {created.id} for {name} ({role}{' on ' + node if node else ''}) is in {out}")


def _roles(tenants: tuple[str, ...], role: str) -> dict[str, Role]:
    """Tenant -> role, of 'acme' and 'acme=viewer'."""
    found = {}
    for one in tenants:
        tenant, _, lesser = one.partition("=")
        if lesser and lesser not in set(Role):
            raise misused("a tenant is followed by a role", where=f"--tenant {one}", fix=f"one of {', '.join(Role)}")
        found[tenant] = Role(lesser or role)
    return found


@token.command("ls")
@hub_command
async def ls(s: Session) -> None:
    """List tokens, join tokens and the keys of nodes, with what they are for; the hub keeps only their hashes."""
    s.out.listed(
        await s.api.tokens(),
        ("ID", "NAME", "KIND", "ROLE", "FOR", "CREATED", "BY", "LAST USED", "STATE"),
        lambda t: (t.id, t.name, t.kind, t.role, _scope(t), utc(t.created_ms), t.created_by, _used(t), _state(t)),
        empty="no tokens",
    )


def _scope(one: TokenRecord) -> str:
    """Says what a token is for: 'node gpu-01', 'all tenants', 'acme, bolt=viewer', 'all tenants: health'."""
    if one.node is not None:
        return f"node {one.node}"
    named = (tenant if role == one.role else f"{tenant}={role}" for tenant, role in sorted((one.tenants or {}).items()))
    what = f": {', '.join(one.resources)}" if one.resources is not None else ""
    return (", ".join(named) if one.tenants is not None else "all tenants") + what


def _used(one: TokenRecord) -> str:
    return utc(one.last_used_ms) if one.last_used_ms is not None else "never"


def _state(one: TokenRecord) -> str:
    if one.revoked:
        return "used" if one.kind is Credential.JOIN else "revoked"
    if one.expires_ms is None:
        return "valid"
    return f"{'expired' if one.expires_ms <= time.time() * 1000 else 'until'} {utc(one.expires_ms)}"


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
