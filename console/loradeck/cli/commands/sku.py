"""Commands on SKUs: whole weights served under a name of their own, on replicas that run them as their base."""

import click

from loradeck.cli.commands.pool import of
from loradeck.cli.shared.exits import refused
from loradeck.cli.shared.naming import labels_of, release_named
from loradeck.cli.shared.options import reason_option
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.schemas.manifest import Form
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.route import Pooled, RouteConfig

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
async def set_(
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
async def ls(s: Session) -> None:
    """List SKUs, with the replicas that hold them as their base."""
    s.out.listed(
        [row for row in await s.api.pools() if row.sku],
        ("SKU", "RELEASE", "NODES", "SERVE IT", "ROUTES", "OF"),
        lambda row: (
            row.pool,
            row.sku,
            f"{sum(not node.trouble for node in row.nodes)}/{len(row.nodes)}",
            sum(node.routes > 0 for node in row.nodes),
            row.routes,
            of(row),
        ),
        empty="no SKU; loradeck sku set SKU TENANT RELEASE",
    )
