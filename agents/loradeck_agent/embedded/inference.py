"""The inference thread: the only code that touches the model after its start.

Between two steps of the batch it takes in whatever arrived: adapters to load or unload, new requests, and the
wish to be rid of some. An adapter that is unloaded takes no new request from that moment; requests it already
has are finished under it, and only then are its weights dropped.
"""

import logging
import threading
from collections import deque
from concurrent.futures import Future
from pathlib import Path

import torch

from loradeck_agent.embedded.adapter_bank import BASE, AdapterBank, AdapterWeights, read_adapter
from loradeck_agent.embedded.batch import Batch, Sequence

log = logging.getLogger(__name__)

MAX_ROWS = 32
PREFILL_TOKENS = 256
"""Prompt tokens, padding included, that are prefilled between two steps of the running answers."""
MAX_WAITING = 1024


class Overloaded(Exception):
    """Too many requests are waiting already."""


def _contiguous(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.contiguous() for x in inputs)


class Inference:
    """A model, its resident adapters and the thread that runs them.

    Args:
        model: a causal language model of transformers, in evaluation mode; it is changed in place.
        pad: id of the padding token.
        threads: threads that torch may use for one operation.
        mixed: adapters that one batch mixes at most.
    """

    def __init__(self, model: torch.nn.Module, pad: int, threads: int, mixed: int = 64) -> None:
        self._dtype = next(model.parameters()).dtype
        self.mixed = mixed
        self._bank = AdapterBank(model, mixed)
        # The head is given a strided slice of hidden states, for which torch would copy its weight (0.3 s in bf16).
        model.get_output_embeddings().register_forward_pre_hook(_contiguous)  # type: ignore[operator]
        self._batch = Batch(model, self._bank, pad)
        self._threads = threads
        self._waiting: deque[Sequence] = deque()
        self._arrivals: deque[Sequence] = deque()
        self._installs: deque[tuple[int, AdapterWeights, Future[None]]] = deque()
        self._retired: set[int] = set()
        self._wake = threading.Condition()
        self._stopping = False
        self._next_handle = 0
        self.steps = 0
        """Steps of the batch so far, and groups of prompts that were read."""
        self._passed = 0  # requests that were taken before the oldest one, whose adapter found no place in the batch
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Starts the inference thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread at the next step boundary; answers under way end with an error."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    # ---- called from any thread

    def submit(self, sequence: Sequence) -> None:
        """Queues a request of an adapter that is loaded. Raises: Overloaded: MAX_WAITING requests wait already."""
        with self._wake:
            if len(self._arrivals) + len(self._waiting) >= MAX_WAITING:
                raise Overloaded
            self._arrivals.append(sequence)
            self._wake.notify()

    @property
    def waiting(self) -> int:
        """Requests that wait for their first token."""
        with self._wake:
            return len(self._arrivals) + len(self._waiting)

    def cancel(self, sequence: Sequence) -> None:
        """Drops a request at the next step boundary. One that has ended is left as it is."""
        with self._wake:
            sequence.cancelled = True
            self._wake.notify()

    def read(self, folder: Path) -> AdapterWeights:
        """Reads and checks an adapter's files, in the caller's thread. Raises: AdapterFault: the files are at fault."""
        return read_adapter(folder, self._bank.shapes, self._dtype)

    def install(self, weights: AdapterWeights) -> tuple[int, Future[None]]:
        """Makes an adapter resident at the next step boundary. Returns its handle, and when it may be used."""
        done: Future[None] = Future()
        with self._wake:
            handle = self._next_handle
            self._next_handle += 1
            self._installs.append((handle, weights, done))
            self._wake.notify()
        return handle, done

    def retire(self, handle: int) -> None:
        """Drops an adapter once the requests submitted so far are finished."""
        with self._wake:
            self._retired.add(handle)
            self._wake.notify()

    @property
    def stacked(self) -> frozenset[int]:
        """Handles of the adapters that the next batch may use as they are."""
        return self._bank.stacked

    # ---- the inference thread

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        while self._take_in():
            group = self._next_group()
            try:
                if group:
                    self._batch.admit(group)
                    self.steps += 1
                if self._batch.rows:
                    self._batch.step()
                    self.steps += 1
            except Exception as error:  # of the model's work for all rows at once: the thread must outlive the batch
                log.exception("a step failed")
                for row in {id(row): row for row in (*self._batch.rows, *group)}.values():
                    if row.finished is None:
                        row.crash(error)
                self._batch.clear()
        for row in (*self._batch.rows, *self._waiting, *self._arrivals):
            row.fail("the engine is stopping")

    def _take_in(self) -> bool:
        """Waits until there is something to do and takes it in. False: the thread is to end."""
        with self._wake:
            while not (self._stopping or self._arrivals or self._waiting or self._installs or self._batch.rows):
                if self._retired:
                    break
                self._wake.wait()
            if self._stopping:
                return False
            self._waiting.extend(self._arrivals)
            self._arrivals.clear()
            installs = list(self._installs)
            self._installs.clear()
            retired = set(self._retired)
        if any(row.cancelled for row in self._waiting):
            self._waiting = deque(row for row in self._waiting if not row.cancelled)
        self._batch.drop_finished()
        for handle, weights, done in installs:
            try:
                self._bank.add(handle, weights)
            except Exception as error:  # reported to whoever asked for the adapter
                done.set_exception(error)
            else:
                done.set_result(None)
        used = {row.adapter for row in (*self._batch.rows, *self._waiting)}
        for handle in retired - used:
            self._bank.remove(handle)
            self._batch.forget(handle)
        with self._wake:
            self._retired -= retired - used
        return True

    def _next_group(self) -> list[Sequence]:
        """Requests to prefill now: in order of arrival, as many as fit the rows, the prefill budget and the adapters.

        While the oldest one's adapter finds no place in the batch, others whose adapter has one may pass it, a batch's
        rows at most.
        """
        group: list[Sequence] = []
        width = 0
        mixed = {row.adapter for row in self._batch.rows} | {BASE}
        for row in list(self._waiting):
            if len(self._batch.rows) + len(group) >= MAX_ROWS:
                break
            oldest = self._waiting[0] is row
            if row.adapter not in mixed and len(mixed) > self.mixed:
                continue
            if not oldest and self._passed >= MAX_ROWS:
                break
            width = max(width, self._batch.to_compute(row))
            if group and width * (len(group) + 1) > PREFILL_TOKENS:
                break
            self._passed = 0 if oldest else self._passed + 1
            self._waiting.remove(row)
            group.append(row)
            mixed.add(row.adapter)
        return group


__all__ = ["BASE", "MAX_WAITING", "Inference", "Overloaded"]
