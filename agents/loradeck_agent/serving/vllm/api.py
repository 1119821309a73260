"""Reads a vLLM in the terms of the engine contract, by its own calls and by those of our plugin where it has that.

vLLM's `/version` is its version alone. The start time in its `/metrics` identifies the process that answers; the folder
that `/v1/models` names, whose files are hashed here, identifies the base. The plugin (agents/vllm_plugin) says what it
holds, loads, unloads and pins.

Without the plugin it is kept in mind what a vLLM has in its CPU cache, as far as that is known from outside. vLLM's
unloading takes an adapter from its list and leaves it in the cache, which gives up what was used least recently when
one more is loaded. That must be an unloaded adapter: a listed one would be read from the disk again in the middle of a
step. Callers' requests are not seen here, so that a listed adapter counts as used when it was last loaded or asked by
us, and an unloaded one as used until its unload.
"""

import asyncio
import logging
import re
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from loradeck import artifacts
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.ids import Wire
from loradeck.schemas.replica_state import AckLevel
from loradeck_agent.host.engine_config import VllmEngine
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.http_client import HttpClient, Reply
from loradeck_agent.serving.engine_api import (
    CALL_S,
    CANARY_S,
    LOAD_S,
    METRICS,
    EngineAddress,
    EngineApi,
    EngineVersion,
    expect,
    reading,
    same_folder,
)
from loradeck_agent.serving.vllm.command import BASE_ALONE, BASE_ALONE_SLOTS, cpu_slots, write_zeros
from loradeck_agent.store.fetch import as_agent_error

log = logging.getLogger(__name__)

Name = Annotated[str, Field(max_length=300)]


class Held(Wire):
    """An adapter in a vLLM's memory. A name of None: it is listed no more."""

    name: Name | None
    level: AckLevel
    pinned: bool


class VllmMemory(Wire):
    """What a vLLM holds, the least recently used first, and how many it can on its device and in memory.

    `read_in_loop`: adapters that vLLM's loop has read by itself since it was first asked, while all waited.
    """

    device_slots: int = Field(ge=0)
    host_slots: int = Field(ge=0)
    read_in_loop: int = Field(ge=0)
    adapters: tuple[Held, ...] = Field(max_length=10_000)


class VllmPlugin:
    """Calls to our plugin in one vLLM. Raises `Unreachable`, or AgentError with its refusal."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._why_nothing = ""

    async def memory(self) -> VllmMemory | None:
        """The adapters that the vLLM holds; None where it has no plugin, or one that adds nothing.

        Raises: AgentError: `engine_error`, `key_refused`.
        """
        reply = await self._http.get("/v1/loradeck/residency", timeout=CALL_S)
        if reply.status == 404:
            self._adds_nothing(reply)
            return None
        with reading("what vLLM's plugin holds cannot be read"):
            return VllmMemory.model_validate_json(expect(reply).body)

    def _adds_nothing(self, reply: Reply) -> None:
        """Logs once why a plugin that is there adds nothing; a vLLM without it gives no reason."""
        try:
            why = str(reply.json()["detail"])[:300] if "code" in reply.json() else ""
        except (ValueError, KeyError, TypeError):
            why = ""
        if why and why != self._why_nothing:
            self._why_nothing = why
            log.warning("the plugin in vLLM adds nothing, and levels are not known: %r", why)

    async def load(self, name: str, path: Path, instead: Sequence[str] = ()) -> str:
        """Loads an adapter from a folder that its digest names, beside the steps of the model, in place of others.

        Returns: the folder that it is listed from now.

        Raises: AgentError: `files_missing`, `wrong_digest`, `name_taken`, `load_refused`, `read_timeout`;
            `engine_error`: its answer cannot be read.
        """
        body = {"name": name, "path": str(path), "instead": list(instead)}
        reply = await self._http.post("/v1/loradeck/load", body, timeout=LOAD_S)
        _check(reply, name)
        with reading("what vLLM's plugin said of a load cannot be read"):
            return str(reply.json()["root"])

    async def unload(self, name: str) -> None:
        """Takes an adapter off the list and out of memory; one that is not listed is no error. Raises AgentError."""
        reply = await self._http.post("/v1/loradeck/unload", {"name": name}, timeout=LOAD_S)
        if reply.status != 404:
            _check(reply, name)

    async def pin(self, names: Collection[str]) -> None:
        """Pins some adapters in memory, and no others. Raises: AgentError: `pins_full`."""
        reply = await self._http.post("/v1/loradeck/pins", {"names": sorted(names)}, timeout=CALL_S)
        _check(reply, f"{len(names)} pins")


FIXES = {
    "files_missing": "its folder must be the same for the engine, and readable by its user",
    "wrong_digest": "move that folder away: it is fetched from the hub again",
}


def _check(reply: Reply, what: str) -> None:
    if reply.status == 200:
        return
    try:
        refused = reply.json()
        code, detail = str(refused["code"])[:60], str(refused["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        expect(reply)
        raise AssertionError("unreachable") from None
    raise AgentError(code, f"the engine refused {what}", detail, FIXES.get(code, ""))


class CpuCache:
    """The adapters in the CPU cache of one vLLM, which holds `size` of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._listed: dict[str, int] = {}
        self._unloaded: dict[str, int] = {}
        self._time = 0

    def found(self, listed: Iterable[str]) -> None:
        """Notes adapters that were all used just now, in a vLLM of which nothing was known: the rest was unloaded."""
        self._listed = dict.fromkeys(listed, 1)
        self._unloaded = {f"unknown {number}": 0 for number in range(self._size - len(self._listed))}
        self._time = 1

    def to_use(self) -> list[str]:
        """Listed adapters that have to be used before another one is loaded, so that it pushes out an unloaded one."""
        if not self._unloaded or len(self._listed) + len(self._unloaded) < self._size:
            return []
        oldest = min(self._unloaded.values())
        return [name for name, used in self._listed.items() if used <= oldest]

    def used(self, names: Iterable[str]) -> None:
        """Notes that adapters have answered a request."""
        self._time += 1
        self._listed.update(dict.fromkeys(names, self._time))

    def loaded(self, name: str) -> None:
        """Notes that an adapter was loaded, which pushes another one out of a full cache."""
        self._unloaded.pop(name, None)
        if self._unloaded and len(self._listed) + len(self._unloaded) >= self._size:
            del self._unloaded[min(self._unloaded, key=lambda one: self._unloaded[one])]
        self.used([name])

    def unloaded(self, name: str) -> None:
        """Notes that an adapter is no longer listed."""
        if self._listed.pop(name, None) is not None:
            self._time += 1
            self._unloaded[name] = self._time


BOOT_READ_S = 10.0
"""The start time is read again after this long even over a kept connection: a proxy may stand between."""

READERS = 4
"""How many adapters the plugin in vLLM reads at a time: the same number as `READERS` of `loradeck_vllm.routes`."""

USED_AT_ONCE = 16
"""Adapters that are used beside each other, so that they stay in memory."""

_STARTED = re.compile(r"^process_start_time_seconds ([0-9.e+]+)\s*$", re.MULTILINE)
_SLOTS = re.compile(r'^vllm:lora_requests_info\{[^}\n]*max_lora="(\d+)"', re.MULTILINE)
_RELEASE_NAME = re.compile(r".*[0-9a-f]{64}")


class VllmApi(EngineApi):
    """Calls to one vLLM, launched or attached to."""

    def __init__(self, address: EngineAddress, config: VllmEngine, digests: Path) -> None:
        """`digests`: file that keeps the digests of the base's files while they are unchanged."""
        super().__init__(address, config.read_key())
        self._config = config
        self._digests = digests
        self._boot = ""
        self._boot_at = 0.0
        self._boot_connections = -1
        self._plugin = VllmPlugin(self._http)
        self._plugged = False
        """Whether the running vLLM has Loradeck's plugin."""
        self._pinned: frozenset[str] | None = None
        """What was pinned last, and nothing was loaded since; None: not known."""
        self._roots: dict[str, str] = {}
        """The folders that adapters were listed from as they were loaded, until somebody asks for them."""
        self._cache: CpuCache | None = None
        """What is known of its CPU cache; None: nothing, since no adapter was loaded here yet."""

    async def boot(self) -> str:
        """Start time of the server's process, from its metrics. To be called after `healthy`.

        That call would have found a dead process's connection closed and opened another: while none was opened,
        the process is the one that was asked before.

        Raises: AgentError: `engine_error`, its metrics do not have it.
        """
        fresh = time.monotonic() - self._boot_at < BOOT_READ_S
        if not fresh or self._http.connections != self._boot_connections:
            self._boot = _started(await self._metrics())
            self._boot_at, self._boot_connections = time.monotonic(), self._http.connections
        return self._boot

    async def version(self) -> EngineVersion:
        """The running vLLM's version.

        Raises: AgentError: `wrong_base`, it serves another folder than the configured one; `base_name_taken`.
        """
        base_name = await self._base_name()
        metrics = await self._metrics()
        reply = expect(await self._http.get("/version", timeout=CALL_S))
        with reading("the engine's version cannot be read"):
            version = str(reply.json()["version"])
        config = self._config
        with as_agent_error(config.base):
            base = await asyncio.to_thread(artifacts.base_digest, config.base, cache=self._digests)
        memory = await self._plugin.memory()
        self._plugged, self._pinned = memory is not None, None
        slots = _SLOTS.search(metrics)
        spare = 0
        if BASE_ALONE in await super().models():
            base_name, spare = BASE_ALONE, BASE_ALONE_SLOTS
        mixed = memory.device_slots if memory is not None else int(slots[1]) if slots else config.mixed + spare
        # Without the plugin nobody says how many it keeps in memory: as many as a batch mixes, or as is written.
        room = memory.host_slots if memory is not None else config.slots + spare
        if memory is None and slots and config.batch_slots is None:
            room = mixed
        return EngineVersion(
            boot=_started(metrics),
            build=EngineBuild(
                engine=f"vllm {version}",
                device=config.device,
                dtype=config.dtype,
                tensor_parallel=config.tensor_parallel,
            ),
            base=base,
            base_name=base_name,
            slots=max(1, min(config.slots, room - spare)),
            batch_slots=max(1, min(config.mixed, mixed - spare)),
        )

    async def take_over(self) -> EngineVersion:
        """Loads the adapter of zeros on CPU, and asks one answer, so that the slots are among the metrics."""
        self._cache = None
        base_name = await self._base_name()
        metrics = await self._metrics()
        if "vllm:lora_requests_info" in metrics and not _SLOTS.search(metrics):
            await self._use(base_name)
        if self._config.device == "cpu":
            await self._load_base_alone()
        return await self.version()

    async def models(self) -> dict[str, str]:
        """Loaded adapters with their folders, without the one by which the base alone is served.

        With the plugin those that vLLM lists and holds, without it all that it lists.
        """
        held = await self.levels()
        listed = (await super().models()).items()
        return {name: root for name, root in listed if name != BASE_ALONE and (held is None or name in held)}

    @property
    def at_once(self) -> int:
        """How many adapters the vLLM may be told to load at a time: with the plugin as many as that reads."""
        return READERS if self._plugged else 1

    async def levels(self) -> dict[str, AckLevel] | None:
        """The levels of the adapters that it holds, by name. None without the plugin: vLLM itself does not say."""
        memory = await self._plugin.memory() if self._plugged else None
        named = [one for one in memory.adapters if one.name != BASE_ALONE] if memory is not None else []
        return None if memory is None else {one.name: one.level for one in named if one.name is not None}

    async def pin(self, names: Collection[str]) -> None:
        """Pins some adapters and that of the base alone in vLLM's memory. Without the plugin it does nothing."""
        wanted = frozenset((*names, BASE_ALONE))
        if not self._plugged or wanted == self._pinned:
            return
        try:
            await self._plugin.pin(wanted)
        except AgentError as error:
            if error.code != "pins_full":
                raise
            log.warning("%s: %s; give it a larger --max-cpu-loras", self._config.name, error)
        self._pinned = wanted

    async def _load_base_alone(self) -> None:
        """Loads the adapter of zeros; nothing for a base of a kind that is not known here."""
        config = self._config
        if BASE_ALONE in await super().models():
            return
        with as_agent_error(config.base):
            base = await asyncio.to_thread(artifacts.base_digest, config.base, cache=self._digests)
            folder = self._digests.with_name("base-alone") / base
            known = await asyncio.to_thread(write_zeros, folder, config.base)
        if known:
            await self.load(BASE_ALONE, folder)

    async def root_of(self, name: str) -> str | None:
        """The folder that the engine lists an adapter from, as its plugin said with the load if it has one."""
        said = self._roots.pop(name, None)
        return said if said is not None else await super().root_of(name)

    async def load(self, name: str, path: Path, instead: Sequence[str] = ()) -> None:
        """Loads an adapter in place of others.

        By the plugin beside vLLM's steps; else after those of ours were used that it would push out of vLLM's memory.
        """
        if self._plugged and name != BASE_ALONE:
            if self._pinned is not None and name in self._pinned:
                self._pinned = None  # its pin went with the load before
            self._roots[name] = await self._plugin.load(name, path, instead)
            return None
        for other in instead:
            await self.unload(other)
        if self._cache is None:
            state = self._digests.parent
            ours = [one for one, root in (await super().models()).items() if Path(root).is_relative_to(state)]
            await self._use_all(ours)
            config = self._config
            self._cache = CpuCache(config.slots if config.attached else cpu_slots(config))
            self._cache.found(ours)
        names = self._cache.to_use()
        await self._use_all(names)
        self._cache.used(names)
        await super().load(name, path)
        self._cache.loaded(name)

    async def unload(self, name: str) -> None:
        """Unloads an adapter. Without the plugin vLLM may still hold its weights, which is remembered."""
        if self._plugged:
            return await self._plugin.unload(name)
        if self._cache is not None:
            self._cache.unloaded(name)
        await super().unload(name)

    async def _use_all(self, names: list[str]) -> None:
        for first in range(0, len(names), USED_AT_ONCE):
            await asyncio.gather(*(self._use(one) for one in names[first : first + USED_AT_ONCE]))

    async def _use(self, name: str) -> None:
        body = {"model": name, "messages": [{"role": "user", "content": "."}], "max_tokens": 1}
        expect(await self._http.post("/v1/chat/completions", body, timeout=CANARY_S))

    async def _metrics(self) -> str:
        return expect(await self._http.get(METRICS, timeout=CALL_S)).text

    async def _base_name(self) -> str:
        """The name of its base. Every name that it has for a base must stand for the configured folder."""
        bases = {name: root for name, (root, parent) in (await self._listed()).items() if not parent}
        if not bases:
            raise AgentError("engine_error", "the engine lists no base", self._config.name)
        for name, root in bases.items():
            if not Path(root).is_absolute() or not same_folder(root, self._config.base):
                raise AgentError(
                    "wrong_base",
                    f"this vLLM serves {root}, not the configured base",
                    f"its {name!r}; `base` of engine {self._config.name} is {self._config.base}",
                    "start it with --model and that very folder, or correct `base`",
                )
            if _RELEASE_NAME.fullmatch(name):
                raise AgentError(
                    "base_name_taken",
                    "this vLLM serves its base under a name that looks like a release's",
                    name,
                    "start it with another --served-model-name",
                )
        return next(iter(bases))


def _started(metrics: str) -> str:
    found = _STARTED.search(metrics)
    if found is None:
        raise AgentError(
            "engine_error",
            "the engine's metrics lack its start time",
            "/metrics has no process_start_time_seconds",
            "run vLLM on Linux with one API server",
        )
    return found[1]
