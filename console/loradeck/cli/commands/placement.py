"""Commands on placement: why a route is where it is, and what would move if the pool were another."""

import click

from loradeck.cli.shared.exits import misused
from loradeck.cli.shared.naming import Pointer, on_pointer
from loradeck.cli.shared.session import Noun, Session, hub_command
from loradeck.schemas.pool import PlacementChoice, PlacementPreview

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
