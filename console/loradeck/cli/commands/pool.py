"""Commands on pools: named sets of nodes on which the hub places routes."""

import click

from loradeck.cli.shared.naming import base_named, labels_of
from loradeck.cli.shared.options import reason_option
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.schemas.ids import short
from loradeck.schemas.pool import PoolConfig, PoolRow

pool = Noun("pool")


@pool.command("set")
@click.argument("name", metavar="POOL")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label a node must carry; may be repeated.")
@click.option("--base", "base_name", metavar="BASE", help="Base that an engine of it runs, by label, model or digest.")
@click.option("--hardware", default="", metavar="TEXT", help="What the name of its device holds, such as H100.")
@reason_option()
@writes
async def set_(
    s: Session, name: str, labels: tuple[str, ...], base_name: str | None, hardware: str, reason: str
) -> None:
    """Set what makes a node one of a pool, as a whole; make the pool where there was none.

    Place routes in it with `loradeck route set TENANT ROUTE --pool POOL`.
    """
    base = (await base_named(s.api, base_name)).digest if base_name else None
    row = await s.api.set_pool(name, PoolConfig(labels=labels_of(labels), base=base, hardware=hardware), reason)
    s.out.answer(row, f"pool {name} is set: {len(row.nodes)} nodes are of it")


@pool.command("ls")
@hub_command
async def ls(s: Session) -> None:
    """List pools."""
    s.out.listed(
        await s.api.pools(),
        ("POOL", "NODES", "GIVEN ROUTES", "SLOTS", "ROUTES", "OF"),
        lambda row: (
            row.pool,
            len(row.nodes),
            sum(not node.trouble for node in row.nodes),
            sum(node.slots for node in row.nodes),
            row.routes,
            of(row),
        ),
        empty="no pools; loradeck pool set POOL --label KEY=VALUE",
    )


@pool.command()
@click.argument("name", metavar="POOL")
@hub_command
async def show(s: Session, name: str) -> None:
    """Show a pool's nodes, and how many routes each is assigned."""
    row = await s.api.pool(name)
    s.out.json(row)
    s.out.heading(f"{row.pool}  {row.routes} routes  {of(row)}{f'  SKU {row.sku}' if row.sku else ''}")
    s.out.table(
        ("NODE", "SLOTS", "ROUTES", "TROUBLE"),
        [(node.node, node.slots, node.routes, node.trouble or "-") for node in row.nodes],
        empty="no node is of it: loradeck node ls shows their labels and engines",
    )


@pool.command()
@click.argument("name", metavar="POOL")
@reason_option()
@writes
async def rm(s: Session, name: str, reason: str) -> None:
    """Remove a pool that no route is placed in."""
    await s.api.remove_pool(name, reason)
    s.out.answer({"pool": name, "removed": True}, f"pool {name} is removed")


def of(row: PoolRow) -> str:
    """Says what makes a node one of a pool."""
    config = row.config
    words = [f"{key}={value}" for key, value in sorted(config.labels.items())]
    words += [f"base {short(config.base)}"] if config.base else []
    words += [f"device {config.hardware}"] if config.hardware else []
    return " ".join(words) or "any node"
