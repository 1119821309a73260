"""One engine of this node: its process, its socket, and which releases are loaded and may be asked for.

Two small files outlive the agent, each replaced whole. One says how long the slow steps take: an engine's start the
last time, a fetch and a load in the mean. The hub shows from these how long a way back would take, so only measured
times are ever written. The other says which releases an engine may be asked for, and counts for one boot of it. With it
an agent that is started again asks an engine that went on without it for nothing to be loaded twice; without it
everything is loaded and verified anew.
"""

import asyncio
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from loradeck.schemas.attestation import CanaryItem
from loradeck.schemas.ids import Digest, Wire
from loradeck.schemas.link import Ack, Replica
from loradeck.schemas.replica_state import AckLevel, AckState, EngineState
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.engine_config import EngineConfig, VllmEngine
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder, write_durably
from loradeck_agent.router.wire import EngineAt
from loradeck_agent.serving.engine_api import Canaries, EmbeddedApi, EngineAddress, EngineApi, EngineVersion
from loradeck_agent.serving.vllm.api import VllmApi

log = logging.getLogger(__name__)

NEWEST = 0.3
"""The weight of the newest fetch or load in the mean of their durations, so that a disturbed one counts little."""


class Took(Wire):
    """Seconds, for one base. None: not timed here yet.

    Of fetches and loads it is a mean in which the newest counts NEWEST. `start_s`: from an engine's start until it
    answers. `fetch_s`: from the hub until an adapter lies on the disk here, verified. `load_s`: from there until the
    engine has answered its canaries as recorded.
    """

    start_s: float | None = None
    fetch_s: float | None = None
    load_s: float | None = None


_document: TypeAdapter[dict[str, Took]] = TypeAdapter(dict[str, Took])


class Measured:
    """Durations by digest of the base, kept in a file: a restarted agent still knows how long a cold start takes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._took: dict[str, Took] = {}
        try:
            self._took = _document.validate_json(file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            log.warning("durations cannot be read and are measured again: %s: %s", file, error)

    def of(self, base: str | None) -> Took:
        """The durations that were measured for a base; all unknown where there are none."""
        return self._took.get(base, Took()) if base else Took()

    def note(
        self, base: str, *, start: float | None = None, fetch: float | None = None, load: float | None = None
    ) -> None:
        """Notes the seconds that a step has just taken; None leaves the known duration."""
        known = self.of(base)
        new = {"start_s": start, "fetch_s": _mean(known.fetch_s, fetch), "load_s": _mean(known.load_s, load)}
        update = {name: round(seconds, 3) for name, seconds in new.items() if seconds is not None}
        self._took[base] = self.of(base).model_copy(update=update)
        staging = self._file.with_suffix(".new")
        try:  # lost with the machine it would be measured again, so it is not synced
            staging.write_text(json.dumps({digest: took.model_dump() for digest, took in self._took.items()}))
            staging.replace(self._file)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._file, error)


def _mean(known: float | None, newest: float | None) -> float | None:
    return newest if known is None or newest is None else known + NEWEST * (newest - known)


class ReadyReleases(Wire):
    """Releases that were verified in one lifetime of an engine, by release id.

    `loaded` are adapters that the engine holds, `merged` the releases of the weights that it runs.
    """

    boot: str = ""
    loaded: tuple[Digest, ...] = ()
    merged: tuple[Digest, ...] = ()


class ReadyFile:
    """Says in a file which releases one engine may be asked for. It is read once and has one writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = ReadyReleases()
        try:
            self._now = ReadyReleases.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            log.error("%s cannot be read, everything is loaded and verified anew: %s", path, error)

    def of(self, boot: str) -> ReadyReleases | None:
        """Reads the releases of one lifetime of the engine; None when the file is about another."""
        return self._now if boot and self._now.boot == boot else None

    def names(self, release: str) -> bool:
        """Tells whether the file names the release of an adapter."""
        return release in self._now.loaded

    def write(self, releases: ReadyReleases) -> None:
        """Replaces the file's content durably, unless it holds the same already. Blocks for the disk.

        Raises: OSError: the disk refused it; the old content stays.
        """
        if releases == self._now:
            return
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        write_durably(self._path, releases.model_dump_json().encode() + b"\n")
        self._now = releases


def open_api(config: EngineConfig, state: StateFolder) -> EngineApi:
    """Calls to an engine as it is configured. Raises ConfigError when its key cannot be read."""
    address = EngineAddress(socket=str(state.engine_socket(config.name)))
    if not isinstance(config, VllmEngine):
        return EmbeddedApi(address)
    if config.attached:
        address = EngineAddress(
            socket=str(config.socket or ""), url=config.url or "", key=str(config.key) if config.key else ""
        )
    return VllmApi(address, config, state.digests)


class CountingLock(asyncio.Lock):
    """A lock that says how many wait for it, so that whoever holds it for long can give way."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def acquire(self) -> Literal[True]:
        """Waits for the lock, and takes it."""
        self.waiting += 1
        try:
            return await super().acquire()
        finally:
            self.waiting -= 1


@dataclass
class EngineReplica:
    """One engine in its current lifetime, as the agent sees it."""

    name: str
    config: EngineConfig
    api: EngineApi
    measured: Measured
    record: ReadyFile
    """Where the releases of this lifetime outlive the agent."""
    state: EngineState = EngineState.STARTING
    files: str | None = None
    """Digest of the base in its folder, known before the engine runs."""
    version: EngineVersion | None = None
    loaded: dict[str, str] = field(default_factory=dict)
    """Release id -> name under which the engine lists it."""
    outgoing: list[str] = field(default_factory=list)
    """Names that the engine still holds, closed to callers, and that the next loads take the places of."""
    ready: set[str] = field(default_factory=set)
    """Releases that were loaded *and* verified in this lifetime: the router may ask for them."""
    merged_ready: set[str] = field(default_factory=set)
    """Merged releases of the weights that it runs, signed where that is asked: the router may ask for them too."""
    loads: dict[str, int] = field(default_factory=dict)
    """Release id -> how often it was loaded in this lifetime."""
    levels: dict[str, AckLevel] | None = None
    """Name -> how near the engine said it is, at the last round; None: it does not say."""
    levels_until: float = 0.0
    """Until when they need not be asked for again, in monotonic seconds."""
    unknown_until: float = 0.0
    """Until when it need not be searched for what nobody here loaded, in monotonic seconds."""
    draining: frozenset[str] = frozenset()
    """Releases whose slots are needed, and that answered somebody at the last round."""
    unneeded_at: float = 0.0
    """When a load of what nobody needed then began last, in monotonic seconds."""
    evictions: int = 0
    """How many releases were unloaded to make room, in this lifetime."""
    verified: dict[str, Canaries] = field(default_factory=dict)
    """Release id -> canaries that it has answered as recorded in this lifetime, which is enough for later loads."""
    said_by_base: dict[str, tuple[CanaryItem, float, set[str]]] = field(default_factory=dict)
    """Digest of a prompt -> what the base has answered in this lifetime, when (monotonic, seconds), and the base
    releases it was recorded for."""
    foreign: set[str] = field(default_factory=set)
    """Names of adapters that others loaded into an engine of theirs: each takes a slot, and is never unloaded."""
    fault: str = ""
    """Why an engine that answers is not used; empty while it is, or while none answers."""
    silent_since: float | None = None
    """When an engine that runs stopped answering, monotonic seconds; None: it answers, or does not run."""
    stands_still: bool = False
    """The model of a silent engine makes no step, while its server says that it is well."""
    short: tuple[str, ...] = ()
    """Releases that are served, or are the next way back, and have no slot here: a line each."""
    listed_in_router: bool = False
    """Whether the router may have this engine at all: its base was checked."""
    running: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the engine is up."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set from an engine's unasked end until it is up again."""
    began: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once this engine was up, had ended before it was, or was not wanted by a table of the hub's."""
    changing: CountingLock = field(default_factory=CountingLock)
    """Held while adapters are loaded or unloaded."""
    recording: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the file of `record` is written: it has one writer."""

    @property
    def up(self) -> bool:
        """Whether the engine runs and was taken over."""
        return self.state is EngineState.UP

    @property
    def build(self) -> EngineVersion:
        """Version of the running engine. Raises: AgentError: `engine_down`."""
        if self.version is None or not self.up:
            raise AgentError("engine_down", f"engine {self.config.name} does not run", self.name)
        return self.version

    @property
    def slots(self) -> int:
        """Adapters of ours that the running engine can hold. Raises AgentError: `engine_down`."""
        return max(0, self.build.slots - len(self.foreign))

    async def keep_ready(self) -> None:
        """Makes durable which releases may be asked for. Where the disk refuses it, a later agent loads them anew."""
        async with self.recording:
            releases = ReadyReleases(
                boot=self.version.boot if self.version else "",
                loaded=tuple(sorted(self.ready)),
                merged=tuple(sorted(self.merged_ready)),
            )
            writing = asyncio.create_task(asyncio.to_thread(self.record.write, releases))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait({writing})  # its thread goes on, and would replace what is written next
                raise
            except OSError as error:
                log.error("which releases are ready on %s cannot be written: %s", self.name, error)

    async def keep_closed(self, release: str) -> None:
        """Makes durable that a release may not be asked for, before it is loaded or judged anew."""
        if self.record.names(release):
            await self.keep_ready()

    def drop(self, releases: set[str]) -> None:
        """Forgets releases that are no longer in the engine."""
        self.ready -= releases
        for release in releases:
            self.loaded.pop(release, None)

    @property
    def base(self) -> str | None:
        """Digest of the base that the engine runs, ran last, or would run; None while that is not known."""
        return self.version.base if self.version is not None else self.files

    def runs(self, ref: ReleaseRef) -> bool:
        """Tells whether the engine runs, ran last, or would run the base that this release is served on."""
        return self.base == ref.release.served_base

    def came_up(self, version: EngineVersion) -> None:
        """Notes that the engine answers and was taken over."""
        self.version = version
        self.state = EngineState.UP
        self.began.set()
        self.running.set()
        self.ended.clear()

    def went_down(self, state: EngineState = EngineState.DOWN) -> None:
        """Notes that the engine ended, and holds nothing any more. `state`: whether it was stopped on purpose."""
        self.began.set()
        self.running.clear()
        if state is EngineState.DOWN:
            self.ended.set()
        else:
            self.ended.clear()
        self.state = state
        self.loaded.clear()
        self.outgoing.clear()
        self.ready.clear()
        self.merged_ready.clear()
        self.loads.clear()
        self.evictions = 0
        self.draining = frozenset()
        self.levels = None
        self.levels_until = self.unknown_until = 0.0
        self.verified.clear()
        self.said_by_base = {}
        self.foreign.clear()
        self.short = ()
        self.silent_since, self.stands_still = None, False
        self.listed_in_router = False
        self.api.close()

    def acknowledging(self, ack: Ack, stored: bool) -> Ack:
        """An acknowledgement with what is known of this engine: its boot, and of a flip which load it rests on, and how
        near the release is.

        An embedded engine with a slot of the batch for each adapter in its memory holds all of them there. Of one with
        fewer, and of vLLM, it is known that it has the adapter in memory, and not whether the batch holds it now. A
        base and merged weights are the engine's own.

        `stored`: the release's verified files are on this node: what tells a cold one on the disk from an absent one.
        """
        if not self.up or self.version is None:
            return ack
        known: dict[str, object] = {"boot": self.version.boot}
        if ack.release is not None and ack.state in (AckState.FLIPPED, AckState.PROVEN, AckState.LISTED):
            fewer = isinstance(self.config, VllmEngine) or 0 < self.version.batch_slots < self.version.slots
            paged = ack.release in self.loaded and fewer
            level = AckLevel.HOST if paged else AckLevel.DEVICE
            if paged and self.levels is not None:
                level = self.levels.get(self.loaded[ack.release], level)
            if ack.state is AckState.FLIPPED and ack.code is not None:
                level = AckLevel.DISK if stored else AckLevel.ABSENT
            known |= {"level": level, "load": self.loads.get(ack.release)}
        return ack.model_copy(update=known)

    def slot(self) -> EngineAt | None:
        """The engine as the router gets it; None while it may be asked nothing."""
        if not self.up or not self.listed_in_router or self.version is None:
            return None
        return EngineAt(
            replica=self.name,
            socket=self.api.address.socket,
            url=self.api.address.url,
            key=self.api.address.key,
            base=self.version.base,
            base_name=self.version.base_name,
            ready=tuple(sorted(self.ready | self.merged_ready)),
        )

    @property
    def alarm(self) -> str:
        """The engine's fault or missing slots in one line, for an on-call engineer; empty where nothing is wrong."""
        if self.silent_since is not None:
            but = "makes no step and " if self.stands_still else ""
            silent_s = time.monotonic() - self.silent_since
            return f"engine {self.config.name} {but}has not answered for {silent_s:.0f} s"
        return self.fault or "; ".join(self.short)

    def _on_device(self) -> int | None:
        """Counts its releases that the batch holds, as the engine says; None: it does not say."""
        if self.levels is None:
            return None
        return sum(self.levels.get(self.loaded[release]) is AckLevel.DEVICE for release in self.ready)

    def report(self, unreached: str = "", trouble: str = "") -> Replica:
        """The engine as it is reported to the hub.

        Args:
            unreached: why no caller reaches it, whatever it holds.
            trouble: what is wrong with the router before it, which serves all the same.
        """
        version = self.version
        return Replica(
            replica=self.name,
            state=self.state,
            boot=version.boot if version else "",
            base=self.base,
            base_name=version.base_name if version else "base",
            build=version.build if version else None,
            slots=self.slots if version and self.up else self.config.slots,
            batch_slots=version.batch_slots if version and self.up else self.config.mixed,
            loaded=tuple(sorted(self.ready)),
            on_device=self._on_device(),
            evictions=self.evictions,
            alarm=(unreached or "; ".join(filter(None, (self.alarm, trouble))))[:500],
            answers=not unreached and self.silent_since is None,
            **self.measured.of(self.base).model_dump(),
            memory_gb=self.config.memory_gb,
            always=self.config.start == "always",
            levels_known=not self.up or self.levels is not None or not isinstance(self.config, VllmEngine),
        )
