"""Calls to the plugin of ours in a vLLM that has it (agents/vllm_plugin): what it holds, loads, unloads and pins."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from loradeck.schemas.ids import Wire
from loradeck.schemas.replica_state import AckLevel
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.http_client import HttpClient, Reply
from loradeck_agent.serving.engine_api import CALL_S, LOAD_S, expect

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
        self._replaces = True
        """Whether a load makes its own room: one of an earlier plugin does not."""
        self._why_nothing = ""

    async def memory(self) -> VllmMemory | None:
        """The adapters that the vLLM holds; None where it has no plugin, or one that adds nothing.

        Raises: AgentError: `engine_error`, `key_refused`.
        """
        reply = await self._http.get("/v1/loradeck/residency", timeout=CALL_S)
        if reply.status == 404:
            self._adds_nothing(reply)
            return None
        try:
            return VllmMemory.model_validate_json(expect(reply).body)
        except ValidationError as error:
            raise AgentError("engine_error", "what vLLM's plugin holds cannot be read", str(error)[:300]) from error

    def _adds_nothing(self, reply: Reply) -> None:
        """Logs once why a plugin that is there adds nothing; a vLLM without it gives no reason."""
        try:
            why = str(reply.json()["detail"])[:300] if "code" in reply.json() else ""
        except (ValueError, KeyError, TypeError):
            why = ""
        if why and why != self._why_nothing:
            self._why_nothing = why
            log.warning("the plugin in vLLM adds nothing, and levels are not known: %r", why)

    async def load(self, name: str, path: Path, instead: Sequence[str] = ()) -> str | None:
        """Loads an adapter from a folder that its digest names, beside the steps of the model, in place of others.

        Returns: the folder that it is listed from now; None: an earlier plugin does not say.

        Raises: AgentError: `files_missing`, `wrong_digest`, `name_taken`, `load_refused`, `read_timeout`;
            `engine_error`: its answer cannot be read.
        """
        body = {"name": name, "path": str(path), "instead": list(instead)}
        if not self._replaces:
            for one in instead:
                await self.unload(one)
        reply = await self._http.post("/v1/loradeck/load", body, timeout=LOAD_S)
        _check(reply, name)
        try:
            answer = dict(reply.json())
        except (ValueError, TypeError) as error:
            raise AgentError("engine_error", "what vLLM's plugin said of a load cannot be read", repr(error)) from error
        if instead and self._replaces and "unloaded" not in answer:
            self._replaces = False
            for one in instead:
                await self.unload(one)
        root = answer.get("root")
        return root if isinstance(root, str) else None

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
