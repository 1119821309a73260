"""One engine of this node: its process, its socket, and which releases are loaded and may be asked for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from loradeck.schemas.link import EngineState, Replica
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.config import EngineConfig
from loradeck_agent.control import EngineSlot
from loradeck_agent.engine_api import EngineApi, EngineVersion
from loradeck_agent.errors import AgentError


@dataclass
class EngineReplica:
    """What the agent knows of one engine in its current lifetime."""

    name: str
    config: EngineConfig
    api: EngineApi
    state: EngineState = EngineState.STARTING
    version: EngineVersion | None = None
    loaded: dict[str, str] = field(default_factory=dict)
    """Release id -> name under which the engine lists it."""
    ready: set[str] = field(default_factory=set)
    """Releases that were loaded *and* verified in this lifetime: the router may ask for them."""
    listed_in_router: bool = False
    """Whether the router may be told of this engine at all: its base was checked."""
    began: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once this engine was up, or had ended before it was."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while adapters are loaded or unloaded."""

    @property
    def up(self) -> bool:
        return self.state is EngineState.UP

    @property
    def build(self) -> EngineVersion:
        """Version of the running engine.

        Raises:
            AgentError: `engine_down`.
        """
        if self.version is None or not self.up:
            raise AgentError("engine_down", f"engine {self.config.name} does not run", self.name)
        return self.version

    def runs(self, ref: ReleaseRef) -> bool:
        return self.version is not None and self.version.base == ref.release.served_base

    def came_up(self, version: EngineVersion) -> None:
        self.version = version
        self.state = EngineState.UP
        self.began.set()

    def went_down(self) -> None:
        self.began.set()
        self.state = EngineState.DOWN
        self.loaded.clear()
        self.ready.clear()
        self.listed_in_router = False
        self.api.close()

    def slot(self) -> EngineSlot | None:
        """What the router is told; None while nothing may be asked of it."""
        if not self.up or not self.listed_in_router or self.version is None:
            return None
        return EngineSlot(
            replica=self.name,
            socket=str(self.api.socket),
            base=self.version.base,
            base_name=self.version.base_name,
            ready=tuple(sorted(self.ready)),
        )

    def report(self) -> Replica:
        version = self.version
        return Replica(
            replica=self.name,
            state=self.state,
            boot=version.boot if version else "",
            base=version.base if version else None,
            base_name=version.base_name if version else "base",
            build=version.build if version else None,
            slots=version.slots if version else self.config.slots,
            loaded=tuple(sorted(self.ready)),
        )
