"""Budgets of guard's moves: how many it may make in an hour, in case that guard itself is wrong.

They are kept by tenant, by node and by cause, so that nobody uses up another's. By what a node says of tenants that it
alone serves guard may move these, and all routes of one customer may be bad. So a tenant counts once in what it shares
with others, however often guard has moved it. Of a budget of all tenants one node takes no more by its word alone than
of its own, and nothing where no other node vouches alone for as many.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

MOST_AN_HOUR = 3
"""Moves of guard in an hour on the routes of one tenant."""

MOST_BY_A_NODE = 3
"""Other tenants in an hour whose routes guard has moved by the word of one node alone."""

MOST_OF_A_CAUSE = 10
"""Other tenants in an hour whose routes guard has moved for the same cause."""


class GuardMove(NamedTuple):
    """What a move of guard is charged to.

    `node`: the one by whose word alone it is made, since no other serves the pointer; '' if there are several. `cause`:
    what it may have in common with moves of other tenants (`cause_of`); '' if it is not known.
    """

    tenant: str
    node: str = ""
    cause: str = ""


def cause_of(figure: str, base: str) -> str:
    """Names what moves of several tenants may have in common: which of their answers are bad, on which base.

    Args:
        figure: 'bad' or 'errors'.
        base: digest of the base that the release is served on.
    """
    return f"{'bad answers' if figure == 'bad' else 'errors'} on base {base[:12]}"


def spent(made: Collection[GuardMove], due: GuardMove) -> str:
    """Says which budget is spent for a move that is due; '': none is.

    `made`: the moves that guard has made within the hour.
    """
    own = sum(move.tenant == due.tenant for move in made)
    if own >= MOST_AN_HOUR:
        return f"guard has moved {own} pointers of {due.tenant} within the hour"
    others = [move for move in made if move.tenant != due.tenant]
    there = {move.tenant for move in others if move.node == due.node}
    if due.node and len(there) >= MOST_BY_A_NODE:
        return f"guard has moved pointers of {len(there)} other tenants by the word of {due.node} within the hour"
    alike = _alike(move for move in others if move.cause == due.cause)
    if alike >= MOST_OF_A_CAUSE:
        return f"guard has moved pointers of {alike} other tenants for {due.cause} within the hour"
    return ""


def _alike(moves: Iterable[GuardMove]) -> int:
    """Counts tenants: all that several nodes vouch for, and MOST_BY_A_NODE of each node but the one with the most."""
    by_node: dict[str, set[str]] = {"": set()}
    for move in moves:
        by_node.setdefault(move.node, set()).add(move.tenant)
    several = by_node.pop("")
    alone = sorted(min(len(tenants - several), MOST_BY_A_NODE) for tenants in by_node.values())
    return len(several) + sum(alone[:-1])
