"""A node of the fleet as the hub knows it, and its link as far as other parts of the hub use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter

from loradeck.schemas.counts import ColdFigures
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import JobRoom, JobsBackend, Replica
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.table import Pin
from loradeck.schemas.telemetry import Gpu, Host, NvmlState
from loradeck.schemas.training import TrainingProof

Placement = tuple[dict[str, str], tuple[tuple[str, str | None], ...]]

_GPUS = TypeAdapter(tuple[Gpu, ...])


class NodeLink(Protocol):
    """The connection to a node, as far as other parts of the hub use it. Nothing here waits for the node."""

    counts: bool
    """Whether what its agent says counts: of several links under a name one does at most."""
    steered: bool
    """Whether the node is sent table entries; one that is ahead of the log is not, until that is known by its table."""
    signed: bool
    """Whether the node reads and sends entries as signed texts."""

    @property
    def closing(self) -> bool:
        """Whether this end has begun to close it."""

    @property
    def peer(self) -> str:
        """The address that its agent has."""

    def put_message(self, message: BaseModel) -> None:
        """Sends a message after those that were put before it."""

    def put_unpin(self, key: PointerKey) -> None:
        """Sends the end of a pin with the next table entries."""

    def put_serving(self) -> None:
        """Sends a gateway what it is owed of where pointers are served."""

    def steer(self) -> None:
        """Sends table entries from now on, beginning with all of them."""

    def relabelled(self) -> None:
        """Closes the link: its node is placed by other labels from its next hello on."""

    def replaced(self) -> None:
        """Closes the link: its node has opened another one, and it did not answer."""

    def left_alone(self) -> None:
        """Closes the link: it is the only one left under its name, and its agent is to say hello again."""


@dataclass(slots=True)
class Node:
    """A node of the fleet. `heard` is the hub's monotonic clock in seconds; None: not since the hub started."""

    name: str
    version: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    """What it is placed by; see `rules.serving.placement.believed`."""
    said: dict[str, str] | None = None
    """The labels of its last hello; None: it has not linked since the hub started."""
    allowed: dict[str, str] | None = None
    """What a person has allowed it to be placed by from its next hello on."""
    replicas: tuple[Replica, ...] = ()
    silent: frozenset[str] = frozenset()
    """Its replicas that do not answer, as it says itself."""
    ended: dict[str, float] = field(default_factory=dict)
    """Its replicas whose engine was seen to be away -> when last, on the hub's monotonic clock."""
    pins: tuple[Pin, ...] = ()
    host: Host | None = None
    gpus_json: bytes = b"[]"
    """The newest report's GPUs as JSON: as models the figures of eight would take a fifth of a node's memory."""
    nvml: NvmlState = NvmlState.STARTING
    cold: ColdFigures | None = None
    """Requests that met a release which was not loaded, as the newest report has them."""
    stored: frozenset[str] = frozenset()
    """Adapters and merged weights in its agent's folders, by digest."""
    memory_gb: float | None = None
    heard: float | None = None
    link: NodeLink | None = None
    addressed: float | None = None
    """When the hub last sent it anything, on the hub's monotonic clock; None: not since the hub started."""
    rev: int = 0
    """How far its router's table follows the log, as it last said; 0: it has not said, or said it of another log."""
    lost: bool = False
    was_lost: bool = False
    """It was lost when the hub's last life ended."""
    cordoned: bool = False
    drained: bool = False
    failing: frozenset[str] = frozenset()
    """Its GPUs that fail and why, as last reported."""
    cordoned_for: frozenset[str] = frozenset()
    """Those of them for which the hub has cordoned it; empty: it has not."""
    blamed: str = ""
    """What guard has found of it and cordoned it for; '': nothing, or somebody has let it in again."""
    blamed_ms: int | None = None
    """When guard cordoned it last, on the hub's clock; None: never."""
    behind: str | None = None
    contested: tuple[str, ...] = ()
    """The addresses of agents that are linked under its name at once; then none of them counts, and it is lost."""
    gateway: bool = False
    """It has no engine, and sends callers on to nodes: it is told of every pointer, and placed for none."""
    address: str = ""
    """Where its router takes gateways; '': it takes none."""
    jobs_as_agent: bool = False
    """Its jobs run as its agent's own user."""
    recipes: int = 0
    """The level of recipes that its agent reads; see `schemas.jobs.RECIPES`."""
    backend: JobsBackend | None = None
    """What runs its jobs; None: the node itself, on the bases of its engines."""
    room: JobRoom | None = None
    """What it has for jobs, as last reported; None: it runs one at a time."""
    training: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that training there uses, and of its driver, by name."""
    proof: TrainingProof | None = None
    """What the newest trial of training on it has measured."""
    boot: str = ""
    features: frozenset[str] = frozenset()
    """The features of table entries that its router acts on; see `schemas.protocol`."""
    saved: Placement | None = None
    """Its placement as the store has it; None: the store does not know the node."""

    @property
    def linked(self) -> bool:
        """Whether the node has a link now."""
        return self.link is not None

    @property
    def placement(self) -> Placement:
        """What decides which pointers are placed on it: its labels, and its replicas with their bases."""
        return self.labels, tuple((r.replica, r.base) for r in self.replicas)

    @property
    def bases(self) -> set[str | None]:
        """The bases that its jobs can read: those of its engines, and those that jobs alone read."""
        return {replica.base for replica in self.replicas}.union(self.backend.bases if self.backend is not None else ())

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs of the newest report."""
        return _GPUS.validate_json(self.gpus_json)

    @gpus.setter
    def gpus(self, reported: tuple[Gpu, ...]) -> None:
        self.gpus_json = _GPUS.dump_json(reported, exclude_defaults=True)

    def kept(self) -> dict[str, Any]:
        """The part of a node that outlives the hub, as JSON."""
        return {
            "version": self.version,
            "labels": self.labels,
            "allowed": self.allowed,
            "replicas": [[r.replica, r.base, r.slots] for r in self.replicas],
            "cordoned": self.cordoned,
            "drained": self.drained,
            "failing": sorted(self.failing),
            "cordoned_for": sorted(self.cordoned_for),
            "blamed": self.blamed,
            "blamed_ms": self.blamed_ms,
            "lost": self.lost,
            "pins": [pin.model_dump(mode="json") for pin in self.pins],
            "features": sorted(self.features),
            "gateway": self.gateway,
            "address": self.address,
            "proof": self.proof.model_dump(mode="json") if self.proof is not None else None,
        }

    @classmethod
    def of(cls, name: str, kept: dict[str, Any]) -> Node:
        """A node as `kept` saved it."""
        node = cls(
            name=name,
            version=kept["version"],
            labels=kept["labels"],
            allowed=kept.get("allowed"),
            replicas=tuple(
                Replica(replica=r, state=EngineState.DOWN, base=base, slots=slots)
                for r, base, slots in kept["replicas"]
            ),
            cordoned=kept["cordoned"],
            drained=kept["drained"],
            failing=frozenset(kept.get("failing", ())),
            cordoned_for=frozenset(kept.get("cordoned_for", ())),
            blamed=kept.get("blamed", ""),
            blamed_ms=kept.get("blamed_ms"),
            was_lost=kept.get("lost", False),
            pins=tuple(Pin.model_validate(pin) for pin in kept.get("pins", ())),
            features=frozenset(kept.get("features", ())),
            gateway=kept.get("gateway", False),
            address=kept.get("address", ""),
            proof=TrainingProof.model_validate(kept["proof"]) if kept.get("proof") else None,
        )
        node.saved = node.placement
        return node
