"""The bodies of the control socket, for both ends of it: the router (`control`) and the agent (`client`).

An agent meets routers that an earlier version started, so unknown fields are ignored and new ones have defaults.
`EngineAt` and `InForce` are also what the router's table file holds of an engine and of a flip.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from loradeck.schemas.counts import ColdFigures, Traffic
from loradeck.schemas.ids import GENESIS, Digest, Name, OfPointer, PointerKey, Wire
from loradeck.schemas.link import Ack
from loradeck.schemas.position import Position
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import EntryOnWire, Pin, ReleaseRef, TableEntry

VOLATILE = "volatile"
"""The code of a flip that was made in memory alone: callers are served by it, and it does not count."""


@dataclass(frozen=True, order=True)
class Cursor:
    """How far a node has followed the hub's log. Compared by epoch, then rev; `hash` is the log's at that rev."""

    epoch: int = 0
    rev: int = 0
    hash: str = field(default=GENESIS, compare=False)
    witness: Position | None = field(default=None, compare=False)
    """The cursor as a hub signed it; None from a hub of version 1 of the wire."""


class Followed(Wire):
    """Entries of the hub, and how far they follow the hub's log."""

    epoch: int
    rev: int
    hash: Digest
    entries: tuple[EntryOnWire, ...]
    witness: Position | None = None

    @property
    def cursor(self) -> Cursor:
        """How far they follow the hub's log."""
        return Cursor(self.epoch, self.rev, self.hash, self.witness)


class TableUpdate(Followed):
    """Body of `POST /control/table`: entries that the table is to hold from now on."""


class EngineAt(Wire):
    """One engine: the path of its Unix socket, or its URL where it has none, and the releases it may be asked for."""

    replica: Name
    socket: str = ""
    url: str = ""
    key: str = Field("", description="path of the file with the key that it asks for; the key itself is not kept")
    base: Digest
    base_name: str = "base"
    ready: tuple[Digest, ...] = Field(
        (), description="adapters loaded and listed, merged weights let in, in this engine's lifetime"
    )


class SilentEngine(Wire):
    """Body of `POST /control/silent`: an engine that does not answer, for how long that holds if nobody says it again.

    So an engine is asked again that is well once more while the agent is gone. 0 seconds: it answers.
    """

    replica: Name
    seconds: float = Field(ge=0, le=60)


class Engines(Wire):
    """Body of `POST /control/engines`: always all of the node's engines."""

    replicas: tuple[EngineAt, ...]
    at_ns: int = Field(
        0, description="host's monotonic clock: a router that was stopped may read a later call first; 0: not said"
    )


class Unpin(OfPointer):
    """Body of `POST /control/unpin`."""


class HubLink(Wire):
    """Body of `POST /control/hub`: whether the agent is linked to a hub that steers this node."""

    connected: bool
    silent_s: float = Field(0.0, ge=0, description="with connected false: seconds since the hub's last message")


class ProofRequest(OfPointer):
    """Body of `POST /control/proof`: a canary, through the look-up of a caller, under exactly this generation."""

    epoch: int
    generation: int
    replica: Name
    body: dict[str, Any]


@dataclass(frozen=True)
class ColdAsk:
    """Body of `POST /control/cold`: the agent asks which releases it is to load for requests that wait.

    Attributes:
        times: of the last answer; the next one comes when it is another, or after a while.
        failing: releases that cannot be loaded now.
        load_s: how long a load takes; None: none was measured.
        full: releases that get no slot here, however long a request waits.
    """

    times: int
    failing: tuple[str, ...] = ()
    load_s: float | None = None
    full: tuple[str, ...] = ()


ColdRelease = tuple[Name, Name, Digest]
"""The tenant and route of a pointer that requests wait for, and its release."""


@dataclass(frozen=True)
class WantedLoads:
    """Answer to `POST /control/cold`: what is to be loaded, the first first. `times`: how often that has changed.

    `hinted`: what will be asked for, as gateways say.
    """

    times: int
    releases: tuple[ColdRelease, ...]
    hinted: tuple[ColdRelease, ...] = ()


@dataclass(frozen=True)
class Use:
    """Answer to `GET /control/use`: what engines hold for somebody, and how much each pointer is asked for.

    Attributes:
        held: releases in force that are not unloaded; of on-demand routes only what a pin has chosen.
        answering: by replica: releases with answers under way.
        attempted: requests of each pointer since the router's start; none with `?attempted=0`.
    """

    held: tuple[str, ...]
    answering: dict[str, tuple[str, ...]]
    attempted: tuple[tuple[str, str, int], ...]


class HandOver(Wire):
    """Body of `POST /control/hand-over`: another router is ready to take over."""

    until_ns: int = Field(description="CLOCK_MONOTONIC: it has given up by then, and nothing is to be handed over")


class ByRoute(Wire):
    """Releases of some routes: body of `POST /control/drain/cut`, which only a router that has handed over takes, and
    its answer.

    Asked: the releases that stay, where the answers of all others are cut. Answered: those still under way.
    """

    routes: tuple[tuple[PointerKey, tuple[Digest, ...]], ...]


class Acks(Wire):
    """Answer to a call that changes the table: how each engine concerned stands now."""

    acks: tuple[Ack, ...] = ()
    durable: bool | None = Field(
        None,
        description="of a table update: its position and entries are on the disk, also where no engine is concerned; "
        "absent where a refusal is a problem instead",
    )
    withdrawn: tuple[PointerKey, ...] = Field((), description="pointers whose tombstones are in force, engines or none")


def ack_about(
    entry: TableEntry,
    replica: str,
    state: AckState,
    code: str | None = None,
    detail: str = "",
    mono_ns: int = 0,
    *,
    rev: int | None = None,
) -> Ack:
    """An acknowledgement of this moment, about an entry's current release."""
    return Ack(
        tenant=entry.tenant,
        route=entry.route,
        epoch=entry.epoch,
        generation=entry.generation,
        release=entry.current.id if entry.current else None,
        replica=replica,
        state=state,
        code=code,
        detail=detail[:500],
        at_ms=time.time_ns() // 1_000_000,
        mono_ns=mono_ns,
        rev=rev,
    )


class InForce(OfPointer):
    """The release that a router last flipped a pointer to. It never goes back behind it on its own.

    `release` None: the pointer was withdrawn, and the release before it is no longer there to go on with.
    """

    epoch: int
    generation: int
    release: ReleaseRef | None
    pinned: bool = False

    def as_entry(self) -> TableEntry:
        """The entry that was flipped to, with the fields that the rules compare."""
        return TableEntry(
            tenant=self.tenant, route=self.route, epoch=self.epoch, generation=self.generation, current=self.release
        )

    def is_of(self, entry: TableEntry, wanted: ReleaseRef | None) -> bool:
        """Tells whether the flip to this release, under this entry's fence, has been made."""
        same = (self.release and self.release.id) == (wanted and wanted.id)
        return same and (self.epoch, self.generation) == entry.fence


class RouterState(Followed):
    """Answer to `GET /control/state`: the process, and what its table holds."""

    pid: int
    boot: str
    pins: tuple[Pin, ...] = ()
    in_force: tuple[InForce, ...] = ()
    ready: dict[str, tuple[Digest, ...]] = Field(
        default_factory=dict, description="by replica: the releases that it may be asked for"
    )
    features: tuple[str, ...] = Field((), description="what it acts on in entries; none: an earlier version's router")
    protocol: int = Field(1, description="version of the wire that the router speaks")
    volatile: tuple[PointerKey, ...] = Field((), description="pointers of which more is in memory than on the disk")
    build: str = Field("", description="which build of Loradeck it is; none: one that cannot hand over")
    drains: int | None = Field(None, description="pid of the router before it, while that ends what it admitted")


class RouterStats(Wire):
    """Answer to `GET /control/stats`. The counters start again with another boot."""

    boot: str = ""
    traffic: tuple[Traffic, ...] = ()
    trouble: str = Field("", description="what the disk refuses the table; empty: nothing")
    connections: tuple[tuple[str, int], ...] = Field(
        (), description="of the tenants that hold most of callers' connections, how many each holds"
    )
    cold: ColdFigures | None = Field(
        None, description="of requests that wait for a load; None: a router without a queue"
    )
