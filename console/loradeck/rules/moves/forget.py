"""Forgetting a node: a person vouches that it answers nobody, so that it leaves the counts."""

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor
from loradeck.schemas.log import FLEET, Draft, EventKind


def forget(node: str, reason: str, actor: Actor, *, known: bool, linked: bool) -> Draft:
    """Drafts the record that a node was forgotten.

    Args:
        known: the hub knows the node.
        linked: it has a link now, so it runs and may answer.

    Raises: Refused: unknown_node, node_linked.
    """
    if not known:
        raise Refused("unknown_node", f"there is no node {node!r}", fix="loradeck node ls")
    if linked:
        raise Refused(
            "node_linked",
            f"{node} is linked now, so it runs and may answer",
            fix="on its host: loradeck-agent stop; or place its routes elsewhere, and it leaves their counts by itself",
        )
    return Draft(
        kind=EventKind.NODE_FORGET,
        tenant=FLEET,
        actor=actor.name,
        role=actor.role,
        reason=reason,
        payload={"node": node},
        token=actor.token,
    )
