"""The routes under `/v1/loradeck` of vLLM's API server, which its API key guards like all under `/v1`.

| call | body → answer |
|---|---|
| `GET residency` | → `adapters` with name, level and pin, sizes of both caches, how many vLLM's own loop has read |
| `POST load` | `name`, `path`, `instead` → `root` once it is listed from there and in memory, also an evicted name |
| `POST unload` | `name` → 200 once it is neither listed nor held |
| `POST pins` | `names` → 200 once these are pinned in memory, and no others |

What a load's `instead` names is listed no more from its begin on, whatever comes of it, and goes from memory when the
loaded one enters vLLM's cache.

Refusals are `{"code", "detail"}`: 404 `not_listed`, `files_missing`, `workers_elsewhere`; 409 `name_taken`,
`wrong_digest`, `pins_full`; 400 `load_refused`; 504 `read_timeout`.
"""

import asyncio
import json
import logging
import os
from argparse import Namespace
from collections.abc import Awaitable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

log = logging.getLogger("vllm.loradeck")

READERS = 4
"""How many adapters are read at a time, so that one read which does not end holds up no other."""

READ_S = 280.0
"""How long the reading of one adapter may take."""

STATUS = {"not_listed": 404, "files_missing": 404, "workers_elsewhere": 404, "load_refused": 400, "read_timeout": 504}

Name = Annotated[str, Field(min_length=1, max_length=300)]


class Adapter(BaseModel):
    """An adapter's name, the folder that its digest names, and the names of those whose places are needed for it."""

    name: Name
    path: str = Field(min_length=2, max_length=4000, pattern="^/")
    instead: tuple[Name, ...] = Field((), max_length=64)


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
        self._sockets: list[str] = []
        """Where each worker is told what to read."""
        self._read: list[int] = []
        """Adapters that all workers have read, and that they may not have in vLLM's cache yet."""

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
            return await _answer(self.load(adapter.name, adapter.path, adapter.instead))

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
        await self._workers()
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

    async def load(self, name: str, path: str, instead: Sequence[str] = ()) -> dict[str, Any]:
        """Has the workers read an adapter beside the model's steps, and lists it.

        `instead`: listed names that are taken off the list, and out of memory when the adapter comes into vLLM's cache.
        None of it waits for the end of a step.

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
            gone = [self._models.lora_requests.pop(one, None) for one in instead if one != name]
            out = [one.lora_int_id for one in gone if one is not None]
            try:
                async with asyncio.timeout(READ_S):
                    await self._tell_all({"number": number, "name": name, "path": path, "instead": out})
            except BaseException as error:
                if name not in self._models.lora_requests:
                    await asyncio.shield(self._forget(number))
                if out:
                    await asyncio.shield(self._call("loradeck_remove", out))
                if isinstance(error, TimeoutError):
                    raise Refused("read_timeout", f"it was not read in {READ_S:.0f} s") from None
                raise
            self._read.append(number)
            self._models.lora_requests[name] = request
            return {"name": name, "root": self._models.lora_requests[name].lora_path, "unloaded": len(out)}

    async def _tell_all(self, asked: dict[str, Any]) -> None:
        """Has every worker read an adapter. Raises Refused: one of them cannot."""
        sockets = await self._workers()
        answers = await asyncio.gather(*(_tell(one, asked) for one in sockets), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise Refused("load_refused", f"a worker cannot be told to read it: {answer!r}") from answer
            if answer["code"] != "held":
                raise Refused(answer["code"], answer["detail"])

    async def _forget(self, number: int) -> None:
        """Has every worker drop what it has read of an adapter that is not listed."""
        await asyncio.gather(*(_tell(one, {"forget": number}) for one in self._sockets), return_exceptions=True)

    async def _workers(self) -> list[str]:
        """The sockets of all workers. Raises Refused where one of them runs on another host."""
        if not self._sockets:
            sockets = await self._engine.collective_rpc("loradeck_socket")
            if not all(map(os.path.exists, sockets)):
                raise Refused("workers_elsewhere", "a worker is on another host, or has another /tmp")
            self._sockets = sockets
        return self._sockets

    async def unload(self, name: str) -> dict[str, Any]:
        """Takes an adapter off vLLM's list and out of its memory. What still asks for it reads it again.

        Raises: Refused.
        """
        async with self._models.lora_resolver_lock[name]:
            request = self._models.lora_requests.pop(name, None)
            if request is None:
                raise Refused("not_listed", name)
            await self._call("loradeck_remove", [request.lora_int_id])
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
        read, self._read = self._read, []
        answers: list[Any] = await self._engine.collective_rpc(method, args=(read, *args))
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


async def _tell(path: str, asked: dict[str, Any]) -> dict[str, str]:
    """The answer of one worker. Raises OSError, or ValueError where there is none."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(json.dumps(asked).encode() + b"\n")
        answer: dict[str, str] = json.loads(await reader.readline())
        return answer
    finally:
        writer.close()


async def _answer(call: Awaitable[dict[str, Any]]) -> JSONResponse:
    try:
        return JSONResponse(await call)
    except Refused as refused:
        body = {"code": refused.code, "detail": refused.detail}
        return JSONResponse(body, status_code=STATUS.get(refused.code, 409))
