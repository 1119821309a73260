"""The worker's side: what is read beside vLLM's loop, and calls that the loop makes between two steps of the model.

An adapter is read, checked and packed by a thread. From then on it is in memory: the loop puts it into vLLM's cache in
no time when a step needs it first, or in the next of the calls here. vLLM by itself reads in its loop, and where a
request asks for an adapter that was evicted, inside the step.
"""

import hashlib
import json
import os
import socket
import socketserver
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

LONGEST_LINE = 64 * 1024
AT_ONCE = 16
"""Connections at a time: more than are ever opened, unless reads of a dead file system never end."""

TALK_S = 10.0


class ReadServer(socketserver.ThreadingUnixStreamServer):
    """Listens in a folder of its own, in threads of its own, for processes of the same user."""

    daemon_threads = True

    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, str]], gone: Callable[[int], None]) -> None:
        """`answer`: answers one line. `gone`: called with the number of an adapter whose reader has gone away."""
        self._folder = tempfile.TemporaryDirectory(prefix="loradeck-")  # for this user alone
        self.path = str(Path(self._folder.name) / "read.sock")
        self._answer, self._gone, self._places = answer, gone, threading.BoundedSemaphore(AT_ONCE)
        super().__init__(self.path, socketserver.BaseRequestHandler)
        threading.Thread(target=self.serve_forever, name="loradeck-read", daemon=True).start()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Lets in whoever runs as the same user, while there is a place."""
        _, uid, _ = struct.unpack("3i", request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return uid == os.geteuid() and self._places.acquire(blocking=False)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answers one line. Where nobody takes the answer any more, what was read is dropped."""
        try:
            # The model's step has the processor first: on Linux each thread has a niceness of its own.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
            request.settimeout(TALK_S)
            with request.makefile("rb") as lines:
                asked = json.loads(lines.readline(LONGEST_LINE))
            answer = self._answer(asked)
            try:
                request.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                self._gone(asked.get("number", -1))
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A line that cannot be read closes its connection, and nothing else."""


class WrongFiles(Exception):
    """The files are not those that the folder's name stands for."""


Stamp = tuple[int, int, int, int]
"""What changes when a file is written or replaced: inode, size, times of change in ns."""


def verify(folder: Path) -> Mapping[Path, Stamp]:
    """Compares an adapter's files with the digest that their folder is named by. Returns the stamps they had before.

    Raises:
        WrongFiles: a file or the manifest is not what the digest names, or there is one more or less.
        OSError: they cannot be read.
    """
    raw = folder.with_name(f"{folder.name}.json").read_bytes()
    try:
        manifest = json.loads(raw)
        canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        named = {str(entry["path"]): str(entry["sha256"]) for entry in manifest["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise WrongFiles(f"the manifest of {folder} cannot be read: {error!r}") from error
    if hashlib.sha256(canonical.encode()).hexdigest() != folder.name:
        raise WrongFiles(f"the manifest beside {folder} has another digest than the folder's name")
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    if there != named.keys():
        raise WrongFiles(f"{folder} and its manifest differ in {', '.join(sorted(there ^ named.keys())[:3])}")
    stamps = {}
    for name, digest in named.items():
        path = folder / name
        stamps[path] = stamp(path)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise WrongFiles(f"{path} is not the file of its manifest")
    return stamps


def stamp(path: Path) -> Stamp:
    """What changes when this file is written or replaced. Raises OSError."""
    is_ = path.stat()
    return (is_.st_ino, is_.st_size, is_.st_mtime_ns, is_.st_ctime_ns)


def check_unchanged(stamps: Mapping[Path, Stamp]) -> None:
    """Raises WrongFiles where a file was written or replaced since it was compared."""
    for path, before in stamps.items():
        if stamp(path) != before:
            raise WrongFiles(f"{path} was changed while it was read")


NAME = "_loradeck"
"""Attribute of vLLM's LoRA manager that holds what is kept here for one worker."""


class Adapters:
    """The adapters in one worker's memory: vLLM's two caches, and those that were read for them."""

    def __init__(self, manager: Any) -> None:
        """`manager`: the worker's `LRUCacheWorkerLoRAManager`."""
        self._manager = manager
        self._cache = manager._adapter_manager
        self._read_by_vllm: Callable[[Any], Any] = manager._load_adapter
        self._added_by_vllm: Callable[[Any], bool] = manager.add_adapter
        self._immutable: set[int] = set()
        self._read: dict[int, tuple[Any, Sequence[int]]] = {}
        """Number -> an adapter that was read and is not in vLLM's cache yet (None: it is), and those that go for it.
        Threads add to it, and the loop takes from it."""
        self.read_in_loop = 0
        manager._load_adapter = self._read_in_loop
        manager.add_adapter = self._add
        self.server = ReadServer(self.answer, self.forget)

    def answer(self, asked: dict[str, Any]) -> dict[str, str]:
        """Reads an adapter, or forgets one. Called by a thread of the server, one for each line."""
        from vllm.lora.request import LoRARequest

        if "forget" in asked:
            self.forget(asked["forget"])
            return {"code": "forgotten", "detail": ""}
        number, name, path = int(asked["number"]), str(asked["name"]), str(asked["path"])
        self._immutable.add(number)
        try:
            adapter, before = self._read.get(number, (None, []))
            if adapter is None and number not in self._cache.list_adapters():
                adapter = self._whole(LoRARequest(lora_name=name, lora_int_id=number, lora_path=path))
            self._read[number] = adapter, [*before, *map(int, asked["instead"])]
        except WrongFiles as error:
            return {"code": "wrong_digest", "detail": str(error)[:1000]}
        except Exception as error:  # whatever vLLM finds wrong with it
            missing = isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError)
            code = "files_missing" if missing else "load_refused"
            return {"code": code, "detail": f"{type(error).__name__}: {error}"[:1000]}
        return {"code": "held", "detail": ""}

    def forget(self, number: int) -> None:
        """Drops an adapter that was read and is not in vLLM's cache."""
        self._read.pop(number, None)

    def insert(self, numbers: Iterable[int]) -> None:
        """Puts adapters that were read into vLLM's cache, in place of those that go for them. The loop alone may."""
        for number in numbers:
            adapter, instead = self._read.pop(number, (None, ()))
            self.remove(instead)
            if adapter is None or number in self._cache.list_adapters():
                continue
            if len(self._cache) >= self._cache.capacity:
                self._cache.remove_oldest_adapter()
            # What add_adapter() does beyond this, checking and packing, the thread has done.
            self._cache._registered_adapters[number] = adapter

    def remove(self, numbers: Iterable[int]) -> None:
        """Takes adapters out of both caches."""
        for number in numbers:
            _, instead = self._read.pop(number, (None, ()))
            self.remove(instead)  # it was to replace them, and never came into the cache
            self._immutable.discard(number)
            self._manager.remove_adapter(number)

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

    def _add(self, request: Any) -> bool:
        """Stands in vLLM's own way of taking an adapter for a step: one that was read is in its cache by then."""
        self.insert([request.lora_int_id])
        return self._added_by_vllm(request)

    def _read_in_loop(self, request: Any) -> Any:
        """Stands in vLLM's own way of reading, which holds up every tenant: counted, and digests are compared."""
        self.read_in_loop += 1
        if request.lora_int_id in self._immutable:
            verify(Path(request.lora_path))
        return self._read_by_vllm(request)


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


def _after(worker: Any, read: Iterable[int]) -> Adapters:
    """The adapters of a worker, once those that every worker has read are in vLLM's cache."""
    adapters = _adapters(worker)
    adapters.insert(read)
    return adapters


CALLS: dict[str, Callable[..., Any]] = {
    "loradeck_socket": lambda worker: _adapters(worker).server.path,
    "loradeck_remove": lambda worker, read, numbers: _after(worker, read).remove(numbers),
    "loradeck_pin": lambda worker, read, numbers: _after(worker, read).pin(numbers),
    "loradeck_residency": lambda worker, read: _after(worker, read).residency(),
}
"""Calls of a worker that `collective_rpc` makes by their names. `read`: numbers that every worker has read, so that all
insert the same ones at the same time, and their caches keep one order."""
