"""The worker's side: calls that vLLM's loop makes between two steps of the model, each of them short.

An adapter is read, checked and packed by a thread beside the loop, and put into vLLM's cache by the loop in no time.
vLLM by itself does both in its loop, and where a request asks for an adapter that was evicted, inside the step.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loradeck_vllm.immutable_files import WrongFiles, check_unchanged, verify

NAME = "_loradeck"
"""Attribute of vLLM's LoRA manager that holds what is kept here for one worker."""


READERS = 4
"""How many adapters are read at a time, so that one read which does not end holds up no other."""


class Adapters:
    """The adapters in one worker's memory: vLLM's two caches, and those that are being read for them."""

    def __init__(self, manager: Any) -> None:
        """`manager`: the worker's `LRUCacheWorkerLoRAManager`."""
        self._manager = manager
        self._cache = manager._adapter_manager
        self._read_by_vllm: Callable[[Any], Any] = manager._load_adapter
        self._immutable: set[int] = set()
        self._reads: dict[int, Future[Any]] = {}
        self._readers = ThreadPoolExecutor(READERS, "loradeck-read", initializer=_stand_back)
        self.read_in_loop = 0
        manager._load_adapter = self._read_in_loop

    def read(self, request: Any) -> None:
        """Begins to read an adapter beside the loop, unless it is held or being read. Its folder is named by digest."""
        number = request.lora_int_id
        self._immutable.add(number)
        if number not in self._cache.list_adapters() and number not in self._reads:
            self._reads[number] = self._readers.submit(self._whole, request)

    def state(self, number: int, *, insert: bool) -> tuple[str, str]:
        """How far an adapter is: `reading`, `read`, `held`, or the code of a refusal, with its detail.

        `insert`: no other worker is waited for, so that what was read is inserted at once, and no step later.
        """
        read = self._reads.get(number)
        if read is not None and not read.done():
            return "reading", ""
        error = read.exception() if read is not None else None
        if error is None and insert:
            return ("held", "") if self.insert(number) else ("load_refused", "others pushed it out meanwhile")
        if error is None:
            return "read", ""
        if isinstance(error, WrongFiles):
            return "wrong_digest", str(error)
        missing = isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError)
        return "files_missing" if missing else "load_refused", f"{type(error).__name__}: {error}"[:1000]

    def insert(self, number: int) -> bool:
        """Puts an adapter that was read into the cache in memory; what was used least recently may have to go.

        Returns whether it is held.
        """
        read = self._reads.pop(number, None)
        if number not in self._cache.list_adapters() and read is not None:
            adapter = read.result()
            if len(self._cache) >= self._cache.capacity:
                self._cache.remove_oldest_adapter()
            # What add_adapter() does beyond this, checking and packing, the thread has done.
            self._cache._registered_adapters[number] = adapter
        return number in self._cache.list_adapters()

    def forget(self, number: int) -> None:
        """Drops an adapter that is being read, or was and is not held."""
        self._reads.pop(number, None)

    def remove(self, number: int) -> bool:
        """Takes an adapter out of both caches. Returns whether it was in one."""
        self.forget(number)
        self._immutable.discard(number)
        return bool(self._manager.remove_adapter(number))

    def pin(self, numbers: Iterable[int]) -> str:
        """Pins these adapters in memory, and no others. Returns why not, or ''.

        As many places as the device has slots stay free of pins: a step needs that many at once, and ends the engine
        where every place is pinned. Slots of the device are not pinned: pinned tenants would shut out the rest.
        """
        cache = self._cache._registered_adapters
        wanted = set(numbers) & set(cache.cache)
        if len(wanted) > (most := self._cache.capacity - self._cache.lora_slots):
            return f"{len(wanted)} adapters are to be pinned, and at most {most} may be"
        for number in cache.pinned_items - wanted:
            cache._unpin(number)
        for number in wanted:
            cache.pin(number)
        return ""

    def residency(self) -> dict[str, Any]:
        """What is held, the least recently used first: [number, in a device slot, pinned]. And the caches' sizes."""
        cache = self._cache._registered_adapters
        device = set(self._cache.lora_index_to_id)
        return {
            "device_slots": self._cache.lora_slots,
            "host_slots": self._cache.capacity,
            "read_in_loop": self.read_in_loop,
            "held": [[number, number in device, number in cache.pinned_items] for number in cache.order],
        }

    def _whole(self, request: Any) -> Any:
        """An adapter as the cache holds it, in memory of its own."""
        stamps = verify(Path(request.lora_path))
        adapter = self._read_by_vllm(request)
        self._cache._create_merged_loras_inplace(adapter)
        for weights in adapter.loras.values():
            weights.lora_a, weights.lora_b = _own(weights.lora_a), _own(weights.lora_b)
        check_unchanged(stamps)
        return adapter

    def _read_in_loop(self, request: Any) -> Any:
        """Stands in vLLM's own way of reading, which holds up every tenant: counted, and digests are compared."""
        self.read_in_loop += 1
        if request.lora_int_id in self._immutable:
            verify(Path(request.lora_path))
        return self._read_by_vllm(request)


def _stand_back() -> None:
    """Lets the model's step have the processor first: on Linux each thread has a niceness of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _own(tensors: Any) -> Any:
    """A tensor, or a list of them, that no file lies under: one that is mapped is read page by page, in the step."""
    if isinstance(tensors, list):
        return [_own(one) for one in tensors]
    return tensors if tensors is None or tensors.is_pinned() else tensors.clone()


def _adapters(worker: Any) -> Adapters:
    manager = worker.model_runner.lora_manager
    if not hasattr(manager, NAME):
        setattr(manager, NAME, Adapters(manager))
    found: Adapters = getattr(manager, NAME)
    return found


def _read(worker: Any, name: str, number: int, path: str) -> None:
    from vllm.lora.request import LoRARequest

    _adapters(worker).read(LoRARequest(lora_name=name, lora_int_id=number, lora_path=path))


CALLS: dict[str, Callable[..., Any]] = {
    "loradeck_read": _read,
    "loradeck_state": lambda worker, number, insert: list(_adapters(worker).state(number, insert=insert)),
    "loradeck_insert": lambda worker, number: _adapters(worker).insert(number),
    "loradeck_forget": lambda worker, number: _adapters(worker).forget(number),
    "loradeck_remove": lambda worker, number: _adapters(worker).remove(number),
    "loradeck_pin": lambda worker, numbers: _adapters(worker).pin(numbers),
    "loradeck_residency": lambda worker: _adapters(worker).residency(),
}
"""Calls of a worker that `collective_rpc` makes by their names."""
