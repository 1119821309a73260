"""Commands on pools: named sets of nodes on which the hub places routes, why it places them there, and SKUs."""

import click

from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.naming import Pointer, base_named, labels_of, on_pointer, release_named
from loradeck.cli.shared.options import reason_option
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import Form
from loradeck.schemas.pool import PlacementChoice, PlacementPreview, PoolConfig, PoolRow
from loradeck.schemas.route import Pooled, RouteConfig

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


_LISTED = 20

placement = Noun("placement")


@placement.command()
@hub_command
@on_pointer
async def explain(s: Session, at: Pointer) -> None:
    """Say why a route is on its nodes, which come next, and which were full or out.

    DISTANCE comes from a hash of both names and the node's slots; the nearest node is the first choice. A node is full
    at 1.15 times its share; what serves a route stays unless its node is fuller, or a nearer one has little.
    """
    found = await s.api.placement(at.tenant, at.route)
    s.out.json(found)
    pool = f"{found.pool}, SKU {found.sku}" if found.sku else found.pool
    s.out.heading(f"{at} in pool {pool}: {found.replicas} of its nodes, weight {found.weight:g}")
    s.out.table(
        ("NODE", "DISTANCE", "LOAD", "FULL AT", "WHY"),
        [(c.node, f"{c.distance:.4f}", f"{c.load:g}", f"{c.room:g}", _why(c)) for c in found.choices],
        empty="no node of the pool can be given routes now",
    )
    for node, why in found.out.items():
        s.out.say(f"{node} is out: {why}")


@placement.command()
@click.option("--without", multiple=True, metavar="NODE", help="As if this node were gone; may be repeated.")
@click.option(
    "--with-slots", type=click.IntRange(1, 100_000), help="As if one more node with so many slots were there."
)
@click.option("--pool", metavar="POOL", help="The pool that it is of; without: each.")
@hub_command
async def preview(s: Session, without: tuple[str, ...], with_slots: int | None, pool: str | None) -> None:
    """Show what would move, and which routes would be cold, without a node, or with one more."""
    if not without and with_slots is None:
        raise misused("what is to be different?", where="no arguments", fix="--without NODE, or --with-slots N")
    found = await s.api.placement_preview(without=without, slots=with_slots, pool=pool)
    s.out.json(found)
    s.out.heading(f"{found.total} routes would move; {len(found.colder)} would be colder, {len(found.warmer)} warmer")
    s.out.table(
        ("NODE", "SLOTS", "ROUTES", "COLD"),
        [(n.node, n.slots, f"{n.routes[0]} > {n.routes[1]}", f"{n.cold[0]} > {n.cold[1]}") for n in found.nodes],
        empty="no route is placed in a pool",
    )
    _list(s, found)


def _why(choice: PlacementChoice) -> str:
    if choice.serves:
        return "serves it" if choice.assigned else "is to serve it"
    return ("serves it until others are ready" if choice.assigned else "comes next") + (", full" if choice.full else "")


def _list(s: Session, found: PlacementPreview) -> None:
    for move in found.moves[:_LISTED]:
        s.out.say(f"{move.tenant}/{move.route}: {' '.join(move.leaves) or '-'} > {' '.join(move.joins) or '-'}")
    if found.total > _LISTED:
        s.out.say(f"and {found.total - _LISTED} more; --json lists up to 1,000")
    for word, routes in (("colder", found.colder), ("warmer", found.warmer)):
        if routes:
            s.out.say(f"{word}: {', '.join(routes[:_LISTED])}{' ...' if len(routes) > _LISTED else ''}")


sku = Noun("sku")


@sku.command("set")
@click.argument("name", metavar="SKU")
@click.argument("tenant")
@click.argument("release", metavar="RELEASE")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label a node must carry; may be repeated.")
@click.option("--hardware", default="", metavar="TEXT", help="What the name of its device holds, such as H100.")
@click.option("--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="Nodes that serve it.")
@reason_option()
@writes
async def set_sku(
    s: Session,
    name: str,
    tenant: str,
    release: str,
    labels: tuple[str, ...],
    hardware: str,
    replicas: int,
    reason: str,
) -> None:
    """Make a pool of the replicas that run a release of whole weights as their base, and a route of that name in it.

    Once the release is promoted there, callers ask for the model TENANT/SKU. It takes no slot, and no load comes before
    its first token. Other settings of the route stay. Another version is another SKU, or runs beside it on the same
    nodes.
    """
    view = await release_named(s.api, tenant, release)
    made = next((entry.made for entry in await s.api.bases() if entry.digest == view.base), ())
    if view.form is not Form.MERGED and not (made and view.form is Form.BASE):
        raise refused(
            "a SKU is whole weights, merged or fully trained",
            where=f"{tenant} {view.label} is of form {view.form.value}",
            fix=f"loradeck job merge {tenant} {view.label}, and an engine of the weights that it makes",
            code="not_merged",
        )
    config = PoolConfig(labels=labels_of(labels), base=view.base, hardware=hardware)
    row = next((row for row in await s.api.pools() if row.pool == name), None)
    if row is not None and row.config.base != view.base:
        raise refused(
            "a pool of that name is of another base",
            where=f"pool {name}: {row.sku or row.config.base or 'no base of its own'}",
            fix=f"name another SKU, or remove it: loradeck pool rm {name}",
            code="exists",
        )
    if row is None or row.config != config:
        row = await s.api.set_pool(name, config, reason)
    before = (await s.api.tenant(tenant)).routes.get(name, RouteConfig())
    placed = {"placement": {}, "pool": Pooled(pool=name, replicas=replicas)}
    await s.api.set_route(tenant, name, before.model_copy(update=placed), reason)
    s.out.answer(row, f"SKU {name} is {row.sku}: {len(row.nodes)} nodes run its weights, {replicas} of them serve it")
    s.out.say(f"next: loradeck promote {tenant} {name} {view.label}; callers ask for the model {tenant}/{name}")


@sku.command("ls")
@hub_command
async def ls_skus(s: Session) -> None:
    """List SKUs, with the replicas that hold them as their base."""
    s.out.listed(
        [row for row in await s.api.pools() if row.sku],
        ("SKU", "RELEASE", "NODES", "SERVE IT", "ROUTES", "OF"),
        lambda row: (
            *(row.pool, row.sku, f"{sum(not node.trouble for node in row.nodes)}/{len(row.nodes)}"),
            *(sum(node.routes > 0 for node in row.nodes), row.routes, of(row)),
        ),
        empty="no SKU; loradeck sku set SKU TENANT RELEASE",
    )
