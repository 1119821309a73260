"""Pools: named sets of nodes on which the hub places routes, and what is shown of them."""

from pydantic import Field

from loradeck.schemas.ids import Digest, Label, Name, OfPointer, Strict, Wire, added

MOST_MOVES = 1000
"""Most routes that a list of a preview names."""


class PoolConfig(Strict):
    """What makes a node one of a pool: its labels, the base that an engine of it runs, and its hardware."""

    labels: dict[Label, Label] = Field(
        default_factory=dict, max_length=64, description="labels a node must carry; {} is any node"
    )
    base: Digest | None = Field(None, description="that an engine of it runs; None: that of each route's release")
    hardware: str = Field(
        "", max_length=200, description="what the name of its engine's device holds, such as 'H100'; '': any"
    )


class PoolNode(Wire):
    """A node of a pool. `trouble` says why it is given no route: lost, drained, cordoned; '': nothing."""

    node: Name
    slots: int = Field(description="adapters that its engines of the pool's base hold")
    routes: int = Field(description="of this pool, that it is assigned")
    trouble: str = ""


class PoolRow(Wire):
    """A pool, its nodes, and how many routes name it."""

    pool: Name
    config: PoolConfig
    nodes: tuple[PoolNode, ...]
    routes: int
    sku: str = added("", "tenant and label of the merged or trained weights that are its base; '': an ordinary pool")


class PlacementChoice(Wire):
    """A node of a route's pool, in the order in which the route prefers them.

    `load` is what it has, in routes of usual weight, `room` the load from which it is full, and `full` whether it was
    so for this route.
    """

    node: Name
    distance: float = Field(description="by a hash of both names, and the node's slots: the nearest comes first")
    load: float
    room: float
    serves: bool
    assigned: bool = Field(description="it is assigned now; it may yet join, or leave once others are ready")
    full: bool


class PlacementExplained(OfPointer):
    """Why a route of a pool is where it is. `out`: nodes of the pool that are given nothing now, and why."""

    pool: Name
    replicas: int
    weight: float = Field(description="of its requests, where a usual route has 1")
    choices: tuple[PlacementChoice, ...]
    out: dict[Name, str]
    sku: str = added("", "as of the pool")


class PlannedMove(OfPointer):
    """A route that would be served by other nodes."""

    leaves: tuple[Name, ...]
    joins: tuple[Name, ...]


class PlannedNode(Wire):
    """A node before and after: the routes of pools on it, and those of its routes whose live release has no slot."""

    node: Name
    slots: int
    routes: tuple[int, int]
    cold: tuple[int, int]


class PlacementPreview(Wire):
    """What would move, and who would be cold, if nodes were gone or one more were there. Nothing has moved.

    `colder` and `warmer`: routes whose live release would lose its slot, or get one, on a node that serves it.
    """

    moves: tuple[PlannedMove, ...] = Field(description=f"the first {MOST_MOVES}")
    total: int = Field(description="all that would move")
    nodes: tuple[PlannedNode, ...]
    colder: tuple[str, ...]
    warmer: tuple[str, ...]
