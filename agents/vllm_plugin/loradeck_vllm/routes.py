"""The routes under `/v1/loradeck` of vLLM's API server, which its API key guards like all under `/v1`.

| call | body → answer |
|---|---|
| `GET residency` | → `adapters` with name, level and pin, sizes of both caches, how many vLLM's own loop has read |
| `POST load` | `name`, `path` → 200 once it is listed and in memory; so also for a name that was evicted |
| `POST unload` | `name` → 200 once it is neither listed nor held |
| `POST pins` | `names` → 200 once these are pinned in memory, and no others |

Refusals are `{"code", "detail"}`: 404 `not_listed`, `files_missing`; 409 `name_taken`, `wrong_digest`, `pins_full`;
400 `load_refused`; 504 `read_timeout`.
"""

import asyncio
import logging
import os
import time
from argparse import Namespace
from collections.abc import Awaitable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from loradeck_vllm.worker import READERS

log = logging.getLogger("vllm.loradeck")

FIRST_LOOK_S = 0.04
LONGEST_LOOK_S = 0.32
"""How soon after its begin a read is looked at, and how seldom later: each look is a call between two steps."""

READ_S = 280.0
"""How long the reading of one adapter may take."""

STATUS = {"not_listed": 404, "files_missing": 404, "load_refused": 400, "read_timeout": 504}

Name = Annotated[str, Field(min_length=1, max_length=300)]


class Adapter(BaseModel):
    """An adapter's name, and the folder that its digest names."""

    name: Name
    path: str = Field(min_length=2, max_length=4000, pattern="^/")


class Named(BaseModel):
    """An adapter's name."""

    name: Name


class Pins(BaseModel):
    """The names of the adapters that are to be pinned."""

    names: tuple[Name, ...] = Field(max_length=10_000)


class Refused(Exception):
    """A call that is refused, with its code and detail."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code, self.detail = code, detail


class AdapterRoutes:
    """vLLM's endpoint plugin: holds the engine's client, and the list of adapters that vLLM's own routes keep."""

    name = "loradeck"
    required_tasks = ("generate",)

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._loads = asyncio.Semaphore(READERS)
        self._engine: Any = None
        self._models: Any = None

    def attach_router(self, app: FastAPI) -> None:
        """Adds the routes, unless this server may not have them; then it says why."""
        if not self._enabled:
            return
        if why := unfit(app.state.args, os.environ):
            log.warning("the plugin of Loradeck adds no routes: %s", why)
            return

        async def residency() -> JSONResponse:
            return await _answer(self.residency())

        async def load(adapter: Adapter) -> JSONResponse:
            return await _answer(self.load(adapter.name, adapter.path))

        async def unload(adapter: Named) -> JSONResponse:
            return await _answer(self.unload(adapter.name))

        async def pins(adapters: Pins) -> JSONResponse:
            return await _answer(self.pin(adapters.names))

        app.add_api_route("/v1/loradeck/residency", residency, methods=["GET"])
        app.add_api_route("/v1/loradeck/load", load, methods=["POST"])
        app.add_api_route("/v1/loradeck/unload", unload, methods=["POST"])
        app.add_api_route("/v1/loradeck/pins", pins, methods=["POST"])

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Takes the engine's client and vLLM's list of adapters, once the server has them."""
        self._engine, self._models = engine_client, state.openai_serving_models

    async def residency(self) -> dict[str, Any]:
        """What every worker holds, the least recently used first. A name of None: held, and listed no more."""
        workers = await self._call("loradeck_residency")
        names = {request.lora_int_id: name for name, request in self._models.lora_requests.items()}
        first, others = workers[0], [{row[0]: row for row in worker["held"]} for worker in workers[1:]]
        adapters = []
        for number, on_device, pinned in first["held"]:
            rows = [other.get(number) for other in others]
            if all(rows):
                device = on_device and all(row[1] for row in rows if row)
                level = "device" if device else "host"
                adapters.append({"id": number, "name": names.get(number), "level": level, "pinned": pinned})
        return {
            "device_slots": first["device_slots"],
            "host_slots": first["host_slots"],
            "read_in_loop": sum(worker["read_in_loop"] for worker in workers),
            "adapters": adapters,
        }

    async def load(self, name: str, path: str) -> dict[str, Any]:
        """Reads an adapter beside the model's steps, puts it into memory between two of them, and lists it.

        Raises: Refused.
        """
        from vllm.lora.request import LoRARequest

        # The lock under which vLLM's own routes change this name.
        async with self._loads, self._models.lora_resolver_lock[name]:
            request = self._models.lora_requests.get(name)
            if self._models.is_base_model(name):
                raise Refused("name_taken", f"{name} is the base")
            if request is not None and request.lora_path != path:
                raise Refused("name_taken", f"{name} is listed from {request.lora_path}")
            if request is None:
                number = self._models.lora_id_counter.inc(1)
                request = LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)
            number = request.lora_int_id
            alone = len(await self._call("loradeck_read", name, number, path)) == 1
            try:
                await self._until_read(number, alone)
                if not alone and not all(await self._call("loradeck_insert", number)):
                    raise Refused("load_refused", "it was read, and is not held")
            except BaseException:
                await asyncio.shield(self._call("loradeck_forget", number))
                raise
            self._models.lora_requests[name] = request
            return {"name": name}

    async def _until_read(self, number: int, alone: bool) -> None:
        """Returns once every worker has read an adapter, or the one that is alone holds it.

        Raises: Refused: one refuses it, or it takes too long.
        """
        pause, deadline = FIRST_LOOK_S, time.monotonic() + READ_S
        while True:
            await asyncio.sleep(pause)
            states = await self._call("loradeck_state", number, alone)
            for code, detail in states:
                if code not in ("reading", "read", "held"):
                    raise Refused(code, detail)
            if all(code == ("held" if alone else "read") for code, _ in states):
                return
            if time.monotonic() > deadline:
                raise Refused("read_timeout", f"it was not read in {READ_S:.0f} s")
            pause = min(2 * pause, LONGEST_LOOK_S)

    async def unload(self, name: str) -> dict[str, Any]:
        """Takes an adapter off vLLM's list and out of its memory. What still asks for it reads it again.

        Raises: Refused.
        """
        async with self._models.lora_resolver_lock[name]:
            request = self._models.lora_requests.pop(name, None)
            if request is None:
                raise Refused("not_listed", name)
            await self._call("loradeck_remove", request.lora_int_id)
            return {"name": name}

    async def pin(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Pins these listed adapters in memory, and no others. Those that are not held cannot be. Raises Refused."""
        listed = self._models.lora_requests
        numbers = [listed[name].lora_int_id for name in names if name in listed]
        for refusal in await self._call("loradeck_pin", numbers):
            if refusal:
                raise Refused("pins_full", refusal)
        return {"pinned": [row["name"] for row in (await self.residency())["adapters"] if row["pinned"]]}

    async def _call(self, method: str, *args: Any) -> list[Any]:
        """The answers of all workers to one call, which each gives between two steps."""
        answers: list[Any] = await self._engine.collective_rpc(method, args=args)
        return answers


def unfit(args: Namespace, environment: Mapping[str, str]) -> str:
    """Why a server may not have the routes; '' where it may."""
    if not args.enable_lora:
        return "it serves no adapters (--enable-lora)"
    if not (args.uds or args.api_key or environment.get("VLLM_API_KEY")):
        return "anybody could call them; start it with --uds or with an API key"
    if (getattr(args, "api_server_count", None) or 1) > 1 or args.data_parallel_size > 1:
        return "it has several API servers or engines, whose adapters differ"
    return ""


async def _answer(call: Awaitable[dict[str, Any]]) -> JSONResponse:
    try:
        return JSONResponse(await call)
    except Refused as refused:
        body = {"code": refused.code, "detail": refused.detail}
        return JSONResponse(body, status_code=STATUS.get(refused.code, 409))
