"""Rows of a large fleet in little memory: those looked at last as they are, the rest as compressed JSON.

Ten thousand rows as objects take 300 MB, packed 10 MB, and one node with many releases takes 0.1 MB. So a row that
comes is packed at once, unless it is open already or looked at. What the whole list is sorted, counted and searched
by is kept of every row, in its brief; so nothing on the way of a key goes through all rows.
"""

import contextlib
import ctypes
import gc
import sys
import zlib
from collections.abc import Callable, Container, Hashable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from loradeck.rules.quality.attention import NEEDS_YOU, harm, urgency
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.state import NodeRow, TenantRow
from loradeck.tui.text.spans import release
from loradeck.tui.text.why import why

K = TypeVar("K", bound=Hashable)
M = TypeVar("M", bound=BaseModel)
B = TypeVar("B")


def freeze_large_list() -> None:
    """Collect the garbage of loading a large list, freeze the rest, and return memory to the system (glibc).

    Frozen objects are not traversed by the collector again: each time would take as long as a dozen keys.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


OPEN = 128
"""Rows that are held unpacked: a terminal's worth of them, a page around it, and marked rows."""


class Counting(Generic[B]):
    """Counts that follow the rows."""

    def changed(self, before: B | None, after: B | None) -> None:
        """Updates the counts for a row that changed; None stands for a row that did not or does not exist."""
        for brief, by in ((before, -1), (after, 1)):
            if brief is not None:
                self.add(brief, by)

    def add(self, brief: B, by: int) -> None:
        """Counts a row by its brief. `by`: 1, or -1 for one that is gone."""
        raise NotImplementedError


CB = TypeVar("CB", bound=Counting)  # type: ignore[type-arg]


class Rows(MutableMapping[K, M], Generic[K, M, B, CB]):
    """A mapping of rows that packs those not used lately.

    Args:
        kind: the model of a row.
        brief: the summary that is kept of every row; small, and equal when nothing in it has changed.
        counts: the totals of the list.
    """

    def __init__(self, kind: type[M], brief: Callable[[M], B], counts: CB) -> None:
        self.counts = counts
        self.news = True
        """Whether a brief has changed since this was last set to False."""

        self.near: Container[Hashable] = ()
        """The rows that are looked at: they are held open as they change."""

        self._kind = kind
        self._brief = brief
        self._briefs: dict[K, B] = {}
        self._open: dict[K, M] = {}  # used last comes last
        self._packed: dict[K, bytes] = {}
        self._sample = b""

    def __getitem__(self, key: K) -> M:
        row = self._open.pop(key, None)
        if row is None:
            row = self._unpacked(self._packed[key])
        self._keep(key, row)
        return row

    def __setitem__(self, key: K, row: M) -> None:
        before, after = self._briefs.get(key), self._brief(row)
        if key in self._open or key in self.near:
            self._packed.pop(key, None)
            self._open.pop(key, None)
            self._keep(key, row)
        else:
            self._packed[key] = self._compressed(row)
        if before != after:
            self._briefs[key] = after
            self._count(before, after)

    def __delitem__(self, key: K) -> None:
        before = self._briefs.pop(key)
        self._open.pop(key, None)
        self._packed.pop(key, None)
        self._count(before, None)

    def __contains__(self, key: object) -> bool:
        return key in self._briefs

    def __iter__(self) -> Iterator[K]:
        return iter(self._briefs)

    def __len__(self) -> int:
        return len(self._briefs)

    @property
    def briefs(self) -> dict[K, B]:
        """The brief of every row."""
        return self._briefs

    def _count(self, before: B | None, after: B | None) -> None:
        self.news = True
        self.counts.changed(before, after)

    def _keep(self, key: K, row: M) -> None:
        self._open[key] = row
        if len(self._open) > OPEN:
            oldest = next(iter(self._open))
            packed = self._open.pop(oldest)
            if oldest not in self._packed:
                self._packed[oldest] = self._compressed(packed)

    # Rows are alike: each is compressed against the first one.

    def _compressed(self, row: M) -> bytes:
        text = row.model_dump_json().encode()
        self._sample = self._sample or text
        packer = zlib.compressobj(6, zdict=self._sample)
        return packer.compress(text) + packer.flush()

    def _unpacked(self, packed: bytes) -> M:
        return self._kind.model_validate_json(zlib.decompressobj(zdict=self._sample).decompress(packed))


class TenantBrief(NamedTuple):
    """The parts of a pointer's row that lists need: flags, last move, and the live release by name and id."""

    flags: tuple[str, ...]
    moved_ms: int | None
    live: str
    release: str | None
    route: str
    nodes: tuple[str, ...]
    """The node of each replica."""

    why: str = ""
    """The flags in words."""

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
    words, route = sys.intern(" ".join(why(row))), sys.intern(row.route)
    return TenantBrief(flags, row.pointer.moved_ms, live, release_id, route, nodes, words, harm(row))


def brief_node(node: NodeRow) -> NodeBrief:
    """The summary of a node's row."""
    labels = " ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
    text = sys.intern(f"{node.node} {labels} {'LOST' if node.lost else 'up'}")
    return NodeBrief(node.linked, node.lost, len(node.gpus), len(node.pins), text)


@dataclass
class TenantSummary(Counting[TenantBrief]):
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

    def add(self, brief: TenantBrief, by: int) -> None:
        """Counts a pointer by its brief. `by`: 1, or -1 for one that is gone."""
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
class NodeCounts(Counting[NodeBrief]):
    """The summary line of the nodes."""

    nodes: int = 0
    up: int = 0
    lost: int = 0
    gpus: int = 0
    pins: int = 0

    def add(self, brief: NodeBrief, by: int) -> None:
        """Counts a node by its brief. `by`: 1, or -1 for one that is gone."""
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
