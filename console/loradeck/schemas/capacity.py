"""Capacity: what nodes and pools hold at each level, and what a promote or new customers would change for others."""

from __future__ import annotations

from pydantic import Field

from loradeck.schemas.ids import Name, OfPointer, Wire

MOST_NAMED = 100
"""Most routes that a plan names."""


class CapacityRow(Wire):
    """What the engines of a node, or of a pool's nodes, hold, and how requests for on-demand routes fared there.

    Of a pool only what its nodes say now is summed. None: not known.
    """

    name: Name
    pool: bool = Field(description="of a pool; False: of a node")
    of: str = Field("", description="of a pool: the SKU that it is; of a node: why it is given no routes")
    nodes: tuple[int, int] = Field(description="those that are heard now, and all")
    routes: int = Field(description="with a release, that are placed there")
    device: tuple[int, int] | None = Field(description="releases in batch slots, and the slots")
    host: tuple[int, int] | None = Field(description="releases in the engines' memory, and the slots")
    disk: int | None = Field(description="releases whose verified files lie there")
    asked: int | None = Field(description="requests for on-demand routes since their routers' start")
    cold: int | None = Field(description="of them, those that waited until their release was loaded")
    refused: int | None = Field(description="of them, those for which the queue had no room")
    minute: int | None = Field(description="`cold` of the last minute")
    waiting: int | None = Field(description="requests that wait now")
    evictions: int | None = Field(description="releases unloaded to make room, since the engines' start")
    load_s: float | None = Field(description="how long a load takes, on the slowest")

    @property
    def key(self) -> str:
        """The key of this row: a pool and a node may have the same name."""
        return f"{'pool' if self.pool else 'node'} {self.name}"

    @property
    def hit_rate(self) -> float | None:
        """The share of requests for on-demand routes that met a loaded release; None: nobody asked, or not known."""
        if not self.asked or self.cold is None or self.refused is None:
            return None
        return 1 - min(1.0, (self.cold + self.refused) / self.asked)


class ColderRoute(OfPointer):
    """A route whose live release would lose its slot, with its usual requests an hour; None: not known yet."""

    requests_h: float | None


class CapacityPlan(Wire):
    """The answer to whether a promote, or new routes, fit, and who would be colder for it. Nothing has moved.

    It fits where pins, `always` routes with where R goes, and what is new have a slot. Releases on demand may lose
    theirs for it: they are the `colder` ones, and are loaded again when they are asked for.
    """

    short: tuple[Name, ...] = Field(description="nodes on which it does not fit")
    colder: tuple[ColderRoute, ...] = Field(
        description=f"the first {MOST_NAMED} that the caller may see, busiest first"
    )
    total: int = Field(description="all that would be colder")
    resident: tuple[float | None, float | None] = Field(
        description="shares of the measured requests that meet a loaded release, now and then; None: none was measured"
    )
    warmer: int = Field(description="routes whose live release would have a slot that has none now")
    slots: int = Field(0, description="of one more node, as many as most of the pool's have; 0: it is without one")
    more: CapacityPlan | None = Field(
        None,
        description="with one more node; None: not asked for, or the route is placed by labels, so that one more holds "
        "the same",
    )

    @property
    def fits(self) -> bool:
        """Whether the promote or the new routes fit on every node."""
        return not self.short
