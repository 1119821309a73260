"""The summary of every row, so that a list is sorted, searched and counted without unpacking its rows."""

import sys
from dataclasses import dataclass, field
from typing import NamedTuple

from loradeck.rules.quality.attention import NEEDS_YOU, harm, urgency
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.state import NodeRow, TenantRow
from loradeck.tui.model.packed_rows import Rows
from loradeck.tui.text.spans import release


class TenantBrief(NamedTuple):
    """The parts of a pointer's row that lists need: flags, last move, and the live release by name and id."""

    flags: tuple[str, ...]
    moved_ms: int | None
    live: str
    release: str | None
    route: str
    nodes: tuple[str, ...]
    """The node of each replica."""

    harm: int = 0
    """How much goes wrong, by `rules.quality.attention.harm`."""


class NodeBrief(NamedTuple):
    """The parts of a node's row that lists need: whether it is linked, what it has, and the text it is searched by."""

    linked: bool
    lost: bool
    gpus: int
    pins: int
    text: str


_flags: dict[tuple[str, ...], tuple[str, ...]] = {}
"""The few combinations that occur, each held once."""

_routes: dict[tuple[str, ...], tuple[str, ...]] = {}
_nodes: dict[tuple[str, ...], tuple[str, ...]] = {}


def brief_tenant(row: TenantRow) -> TenantBrief:
    """The summary of a pointer's row."""
    flags = _flags.setdefault(row.flags, row.flags)
    live = sys.intern(release(row.live))
    release_id = row.live.id if row.live else None
    nodes = tuple(replica.node for replica in row.replicas)
    nodes = _nodes.setdefault(nodes, nodes)
    return TenantBrief(flags, row.pointer.moved_ms, live, release_id, sys.intern(row.route), nodes, harm(row))


def brief_node(node: NodeRow) -> NodeBrief:
    """The summary of a node's row."""
    labels = " ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
    text = sys.intern(f"{node.node} {labels} {'LOST' if node.lost else 'up'}")
    return NodeBrief(node.linked, node.lost, len(node.gpus), len(node.pins), text)


@dataclass
class TenantSummary:
    """The summary line of the tenants, counted as rows come and go."""

    bad: int = 0
    unproven: int = 0
    failed: int = 0
    """Pointers whose last promote failed."""

    no_way_back: int = 0
    need: int = 0
    empty: int = 0
    """Pointers that serve nothing, and so are not fine."""

    fine: int = 0
    live: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Release -> the routes it is live on."""

    def changed(self, before: TenantBrief | None, after: TenantBrief | None) -> None:
        """Updates the counts for a row that changed; None stands for a row that did not or does not exist."""
        for brief, by in ((before, -1), (after, 1)):
            if brief is None:
                continue
            self._live(brief, by)
            self.bad += by * ("BAD" in brief.flags)
            self.unproven += by * ("UNPRVN" in brief.flags)
            self.failed += by * ("FAILED" in brief.flags)
            self.no_way_back += by * ("NOPRIOR" in brief.flags)
            if urgency(brief.flags) < len(NEEDS_YOU):
                self.need += by
            elif brief.release is None:
                self.empty += by
            else:
                self.fine += by

    def _live(self, brief: TenantBrief, by: int) -> None:
        if brief.release is None:
            return
        others = tuple(route for route in self.live.pop(brief.release, ()) if route != brief.route)
        routes = others if by < 0 else _routes.setdefault((*others, brief.route), (*others, brief.route))
        if routes:
            self.live[brief.release] = routes


@dataclass
class NodeCounts:
    """The summary line of the nodes."""

    nodes: int = 0
    up: int = 0
    lost: int = 0
    gpus: int = 0
    pins: int = 0

    def changed(self, before: NodeBrief | None, after: NodeBrief | None) -> None:
        """Updates the counts for a row that changed; None stands for a row that did not or does not exist."""
        for brief, by in ((before, -1), (after, 1)):
            if brief is None:
                continue
            self.nodes += by
            self.up += by * (brief.linked and not brief.lost)
            self.lost += by * brief.lost
            self.gpus += by * brief.gpus
            self.pins += by * brief.pins


TenantRows = Rows[PointerKey, TenantRow, TenantBrief, TenantSummary]
NodeRows = Rows[str, NodeRow, NodeBrief, NodeCounts]


def tenant_rows() -> TenantRows:
    """An empty mapping for the rows of tenants."""
    return Rows(TenantRow, brief_tenant, TenantSummary())


def node_rows() -> NodeRows:
    """An empty mapping for the rows of nodes."""
    return Rows(NodeRow, brief_node, NodeCounts())
