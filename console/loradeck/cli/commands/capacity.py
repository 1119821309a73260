"""Commands on capacity: what nodes and pools hold at each level, and whether a promote or new customers fit."""

import click

from loradeck.cli.shared.exits import misused
from loradeck.cli.shared.naming import pointer_and_release, release_named
from loradeck.cli.shared.options import connection_options
from loradeck.cli.shared.session import Noun, Session, hub_command
from loradeck.client import capacity_words as words
from loradeck.schemas.capacity import CapacityRow


@click.group(cls=Noun, invoke_without_command=True)
@connection_options
@click.pass_context
def capacity(ctx: click.Context) -> None:
    """Show what nodes and pools hold at each level; plan a promote or new customers.

    The levels: device (in a batch slot of the engine), host (in its memory), disk (files on the node). What is at
    device or host is resident.

    Without a command: `ls`.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(ls)


@capacity.command()
@hub_command
async def ls(s: Session) -> None:
    """List pools and nodes with what they hold at each level, and how requests for on-demand routes fared there.

    What HIT, REFUSED and TURNED OUT count begins with the start of routers and engines. Of a pool only what its nodes
    say now counts; - is not known.
    """
    s.out.listed(
        await s.api.capacity(),
        (
            "",
            "NAME",
            "NODES",
            "ROUTES",
            "DEVICE",
            "HOST",
            "DISK",
            "HIT",
            "OF",
            "COLD/MIN",
            "WAITING",
            "REFUSED",
            "TURNED OUT",
            "LOAD",
        ),
        _cells,
        empty="no node has linked yet",
    )


def _cells(row: CapacityRow) -> tuple[object, ...]:
    return (
        "pool" if row.pool else "node",
        row.name,
        f"{row.nodes[0]}/{row.nodes[1]}",
        row.routes,
        words.of(row.device),
        words.of(row.host),
        words.count(row.disk),
        words.share(row.hit_rate),
        *map(words.count, (row.asked, row.minute, row.waiting, row.refused, row.evictions)),
        words.load(row),
    )


@capacity.command()
@click.argument("names", nargs=-1, metavar="[TENANT [ROUTE] RELEASE]")
@click.option("--pool", metavar="POOL", help="For new customers in this pool.")
@click.option(
    "--routes", type=click.IntRange(1, 10_000), help="So many new routes in --pool, each on one node.  [default: 1]"
)
@click.option("--always", is_flag=True, help="New routes that are `always`: two slots each, not one on demand.")
@hub_command
async def plan(s: Session, names: tuple[str, ...], pool: str | None, routes: int | None, always: bool) -> None:
    """Say whether a promote, or new customers, fit, who would be colder for it, and what one more node would buy.

    It fits where pins, `always` routes with where R goes, and what is new have a slot. Routes on demand may lose theirs
    for it: those are colder, and are loaded again when they are asked for. Who is asked for how much is measured over
    the last 14 days. Exits with 1 where it does not fit.
    """
    if bool(names) == bool(pool) or (names and (routes or always)):
        raise misused(
            "what is to be planned?",
            where=" ".join(names) or "no arguments",
            fix="TENANT [ROUTE] RELEASE for a promote, or --pool POOL --routes N for new customers",
        )
    if pool is not None:
        found = await s.api.capacity_for_routes(pool, routes or 1, always=always)
        head = f"{routes or 1} new in {pool}"
    else:
        at, name = pointer_and_release(names)
        release = await release_named(s.api, at.tenant, name)
        found, head = await s.api.capacity_for_promote(at.tenant, at.route, release.id), f"{at} to {release.label}"
    s.out.json(found)
    s.out.heading(f"{head}: {words.verdict(found)}")
    for line in words.lines(found):
        s.out.say(f"  {line}")
    if not found.fits:
        raise click.exceptions.Exit(1)
