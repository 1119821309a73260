"""Pools: named sets of replicas on which the hub places routes, and what is shown of them."""

from pydantic import Field

from loradeck.schemas.ids import Digest, Label, Name, Strict, Wire


class PoolConfig(Strict):
    """What makes a node one of a pool: its labels, the base that an engine of it runs, and its hardware."""

    labels: dict[Label, Label] = Field(
        default_factory=dict, max_length=64, description="labels a node must carry; {} is any node"
    )
    base: Digest | None = Field(None, description="that an engine of it runs; None: that of each route's release")
    hardware: str = Field(
        "", max_length=200, description="what the name of its engine's device holds, such as 'H100'; '': any"
    )


class PoolNode(Wire, defer_build=True):
    """A node of a pool. `trouble` says why it is given no route: lost, drained, cordoned; '': nothing."""

    node: Name
    slots: int = Field(description="adapters that its engines of the pool's base hold")
    routes: int = Field(description="of this pool, that it is assigned")
    trouble: str = ""


class PoolRow(Wire, defer_build=True):
    """A pool, its nodes, and how many routes name it."""

    pool: Name
    config: PoolConfig
    nodes: tuple[PoolNode, ...]
    routes: int
