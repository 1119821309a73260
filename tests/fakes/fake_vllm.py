"""What the plugin for vLLM touches of vLLM, without vLLM: a worker with its caches, and a server's client of two."""

from __future__ import annotations

import sys
from argparse import Namespace
from asyncio import Lock
from collections import OrderedDict, defaultdict
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Tensor:
    def is_pinned(self) -> bool:
        return False

    def clone(self) -> Tensor:
        return Tensor()


class LoRARequest(SimpleNamespace):
    pass


class Cache:
    """As vllm.utils.cache.LRUCache."""

    def __init__(self) -> None:
        self.order: OrderedDict[int, Any] = OrderedDict()
        self.pinned_items: set[int] = set()

    @property
    def cache(self) -> dict[int, Any]:
        return dict(self.order)

    def __setitem__(self, key: int, value: Any) -> None:
        self.order[key] = value

    def pin(self, key: int) -> None:
        self.pinned_items.add(key)

    def _unpin(self, key: int) -> None:
        self.pinned_items.remove(key)

    def drop(self, key: int) -> bool:
        self.pinned_items.discard(key)
        return self.order.pop(key, None) is not None


class Worker:
    """A worker with its LoRA manager: adapters are read from folders that are there."""

    def __init__(self, *, device: int, host: int) -> None:
        self.registered = Cache()
        self.packed: list[int] = []
        cache = SimpleNamespace(
            capacity=host,
            lora_slots=device,
            lora_index_to_id=[None] * device,
            _registered_adapters=self.registered,
            list_adapters=lambda: self.registered.cache,
            remove_oldest_adapter=self._remove_oldest,
            _create_merged_loras_inplace=lambda adapter: self.packed.append(adapter.id),
        )
        self.cache = _Sized(cache, self.registered)
        self.manager = SimpleNamespace(
            _adapter_manager=self.cache,
            _load_adapter=self._load,
            add_adapter=self._add,
            remove_adapter=self._remove,
        )
        self.model_runner = SimpleNamespace(lora_manager=self.manager)

    def _load(self, request: Any) -> Any:
        if not (Path(request.lora_path) / "adapter_config.json").exists():
            raise FileNotFoundError(request.lora_path)
        weights = SimpleNamespace(lora_a=Tensor(), lora_b=[Tensor(), None])
        return SimpleNamespace(id=request.lora_int_id, loras={"q": weights})

    def _remove(self, number: int) -> bool:
        return self.registered.drop(number)

    def _remove_oldest(self) -> None:
        self.registered.drop(next(one for one in self.registered.order if one not in self.registered.pinned_items))

    def asked(self, request: Any) -> None:
        """A step in which this adapter is used, as vLLM makes it."""
        self.manager.add_adapter(request)

    def _add(self, request: Any) -> bool:
        number = request.lora_int_id
        if number not in self.registered.order:
            adapter = self.manager._load_adapter(request)
            if len(self.registered.order) >= self.cache.capacity:
                self._remove_oldest()
            self.registered[number] = adapter
        self.registered.order.move_to_end(number)
        slots = self.cache.lora_index_to_id
        if number not in slots:
            slots[:] = [*slots[1:], number]
        return True


class _Sized:
    def __init__(self, fields: SimpleNamespace, cache: Cache) -> None:
        self.__dict__.update(vars(fields))
        self._cache_of_size = cache

    def __len__(self) -> int:
        return len(self._cache_of_size.order)


class Engine:
    """The engine's client: every call goes to all workers."""

    def __init__(self, *workers: Worker) -> None:
        self.workers = workers
        self.calls: list[str] = []

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        from loradeck_vllm.worker import CALLS

        self.calls.append(method)
        return [CALLS[method](worker, *args) for worker in self.workers]


def models() -> Any:
    """As vLLM's OpenAIServingModels, with the base `base`."""
    numbers = count(1)
    return SimpleNamespace(
        lora_requests={},
        lora_resolver_lock=defaultdict(Lock),
        lora_id_counter=SimpleNamespace(inc=lambda by: next(numbers)),
        is_base_model=lambda name: name == "base",
    )


def arguments(**changed: Any) -> Namespace:
    """A server's arguments, of those that are looked at."""
    return Namespace(**({"enable_lora": True, "uds": "s", "api_key": None, "data_parallel_size": 1} | changed))


def install(patch: pytest.MonkeyPatch, version: str = "0.32.0") -> None:
    """Makes what the plugin imports of vLLM importable."""
    modules = {
        "vllm": {},
        "vllm.version": {"__version__": version},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.v1": {},
        "vllm.v1.worker": {},
        "vllm.v1.worker.worker_base": {"WorkerBase": type("WorkerBase", (), {})},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        patch.setitem(sys.modules, name, module)
