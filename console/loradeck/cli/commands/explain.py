"""What stood behind an answer: `loradeck explain REQUEST`."""

import click

from loradeck.cli.shared.exits import refused
from loradeck.cli.shared.naming import moment
from loradeck.cli.shared.output import Output, utc
from loradeck.cli.shared.session import Session, hub_command
from loradeck.schemas.answer_ledger import Explained, ExplainedRow, NamedDigest
from loradeck.schemas.ids import short


@click.command()
@click.argument("request")
@click.option("--tenant", metavar="NAME", help="Whose request it was; all tenants that you see by default.")
@click.option("--at", metavar="TIME", help="About when it was asked, if its id does not say: 14:05Z, '2h ago'.")
@hub_command
async def explain(s: Session, request: str, tenant: str | None, at: str | None) -> None:
    """Say which weights, data and gates stood behind an answer.

    REQUEST is the answer's x-request-id. It needs no node, and works for as long as the tenant keeps its answer ledger,
    which has no text of question or answer. The digest, the chain and the anchor of what it reads are checked, and
    said. Exit 1 where the request is not found.
    """
    at_ms = moment(at, interactive=s.interactive) if at is not None else None
    found = await s.api.explain(request, tenant=tenant, at_ms=at_ms)
    if not found.rows:
        raise _not_found(found)
    s.out.json(found)
    for one in found.rows:
        _print(s.out, one)
    for why in found.unread:
        s.out.alarm(why)


def _not_found(found: Explained) -> Exception:
    where = f"{found.searched:,} segments from {utc(found.since_ms)} to {utc(found.until_ms)} were read"
    if found.lost:
        where += f"; their nodes had to give up {found.lost:,} rows before them"
    where = "; ".join((where, *found.unread))
    return refused(
        "the answer ledger does not have this request",
        code="unknown_request",
        where=where,
        fix="give --at TIME, and --tenant NAME; it has what was answered, and not what was refused",
    )


def _print(out: Output, one: ExplainedRow) -> None:
    row, weights = one.row, one.weights
    took = f"{row.finished_ms - row.admitted_ms:,} ms"
    verdict = (
        f"bad: {row.fault}"
        if row.fault
        else "bad"
        if row.bad
        else "passed its checks"
        if row.checked
        else "not checked"
    )
    again = "; not sent, admitted again" if row.status == 0 else ""
    out.heading(f"{one.tenant}/{row.route}   {utc(row.admitted_ms)}   status {row.status}{again}   {took}   {verdict}")
    fields = [
        ("release", f"{weights.label}  {weights.release}"),
        ("base", _name(weights.base)),
        ("template", _name(weights.template)),
        ("adapter", _name(weights.adapter)),
        ("recipe", weights.recipe or ""),
        ("merged", _name(weights.merged)),
        ("parent", _name(weights.parent)),
        *(("dataset", _name(dataset)) for dataset in weights.datasets),
        ("signed by", f"{weights.signers} keys" if weights.signers else ""),
        ("revoked", weights.revoked),
        ("put there", _move(one)),
        ("gate", _gate(one)),
        ("engine", f"{row.replica} on {one.node}" + (f", {one.build}" if one.build else "")),
        ("parameters", " ".join(f"{name}={value}" for name, value in row.parameters.items())),
    ]
    for name, value in fields:
        if value:
            out.say(f"  {name:<11}{value}")
    for line in one.proven:
        out.say(f"  holds      {line}")
    for line in one.doubts:
        out.alarm(f"  DOUBT      {line}")


def _name(named: NamedDigest | None) -> str:
    return f"{named.name}  {named.digest}".strip() if named is not None else ""


def _move(one: ExplainedRow) -> str:
    put = one.put_there
    if put is None:
        return ""
    why = f": {put.reason}" if put.reason else ""
    over = " OVERRIDE" if put.override else ""
    return f"gen {one.row.generation}, rev {put.rev}: {put.kind}{over} by {put.actor} at {utc(put.at_ms)}{why}"


def _gate(one: ExplainedRow) -> str:
    if one.gate is None:
        return "none was judged for it on this route"
    checks = ", ".join(
        f"{check.name} {check.measured} {'passed' if check.passed else 'FAILED'}" for check in one.gate.checks
    )
    result = "passed" if one.gate.passed else "FAILED"
    return f"{result} at {utc(one.gate_at_ms)} on suite {short(one.gate.suite)}: {checks}"
