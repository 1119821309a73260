"""The training loop of every recipe: drawing of rows, steps, guards, validation and checkpoints.

A recipe gives identical bytes on every machine of one kind, interrupted or not: rows are drawn from the seed, and the
random numbers of a piece of a step (dropout) depend on seed, step and piece alone. So a run may also go on with another
number of processes, each with more or fewer of the same pieces; then only the order of additions is another. The
learning rate rises over the first tenth of the steps and falls to zero over the rest; gradients are clipped at norm 1.
"""

import copy
import hashlib
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import peft
import torch
import transformers

from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.jobs import TrainSpec
from loradeck_agent.executors.protocol import Diverged, Preempted, Run
from loradeck_agent.executors.training.checkpoints import CheckpointFolder, optimizer_tensors, restore_optimizer
from loradeck_agent.executors.training.guards import Watch
from loradeck_agent.executors.training.memory_probe import probe
from loradeck_agent.executors.training.objectives import Objective
from loradeck_agent.executors.training.process_group import World
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.trained import Trained
from loradeck_agent.executors.training.validation import Looks, told

T = TypeVar("T")


def _alike(row: object) -> float:
    return 1.0


def batches(
    task: Sequence[T],
    size: int,
    seed: int,
    general: Sequence[T] = (),
    share: float = 0.0,
    weight: Callable[[T], float] = _alike,
) -> Iterator[list[T]]:
    """Yields batches of `size` rows for ever, pass by pass over the task rows.

    A row of weight 1 is drawn once in each pass, one of weight 2 twice, one of weight 1/4 in every fourth: rows of one
    weight take turns. General rows are mixed in so that they make up `share` of all rows drawn; they take turns too,
    by their weights among each other.
    """
    generator = torch.Generator().manual_seed(seed)
    passes, others = _passes(task, weight, generator), _passes(general, weight, generator)
    wanted = sum(map(weight, task)) * share / (1 - share) if general else 0.0
    queue: list[T] = []
    waiting: list[T] = []
    owed = 0.0
    while True:
        while len(queue) < size:
            owed += wanted
            joining = int(owed)
            owed -= joining
            while len(waiting) < joining:
                more = next(others)
                waiting += [more[i] for i in _shuffled(len(more), generator)]
            drawn, waiting = [*next(passes), *waiting[:joining]], waiting[joining:]
            queue += [drawn[i] for i in _shuffled(len(drawn), generator)]
        yield queue[:size]
        queue = queue[size:]


def _passes(rows: Sequence[T], weight: Callable[[T], float], generator: torch.Generator) -> Iterator[list[T]]:
    """Yields the rows of each pass for ever. Of a weight's fraction is owed what a pass could not draw."""
    kinds: dict[Fraction, list[T]] = defaultdict(list)
    for row in rows:
        kinds[Fraction(weight(row)).limit_denominator(1000)].append(row)
    owed, waiting = dict.fromkeys(kinds, Fraction()), {kind: list[T]() for kind in kinds}
    while True:
        drawn = list[T]()
        for kind, of_kind in kinds.items():
            drawn += of_kind * int(kind)
            owed[kind] += len(of_kind) * (kind % 1)
            joining = int(owed[kind])
            owed[kind] -= joining
            while len(waiting[kind]) < joining:
                waiting[kind] += [of_kind[i] for i in _shuffled(len(of_kind), generator)]
            drawn += waiting[kind][:joining]
            del waiting[kind][:joining]
        yield drawn


def _shuffled(count: int, generator: torch.Generator) -> list[int]:
    return list(map(int, torch.randperm(count, generator=generator)))


WARM_UP = 0.1
CLIP = 1.0


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then linear decay to zero."""
    warm = max(1, round(spec.steps * WARM_UP))
    rising = (step + 1) / warm
    falling = (spec.steps - step) / max(1, spec.steps - warm)
    return spec.learning_rate * min(1.0, rising, falling)


def piece_seed(seed: int, step: int, piece: int) -> int:
    """Seed of the random numbers of one piece of a step, for torch's generator."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{piece}".encode()).digest()[:7])


@dataclass(frozen=True)
class _Writing:
    """A checkpoint that is being written. `stall`: seconds that the steps stood still for its copy."""

    step: int
    done: Future[Path]
    stall: float


@dataclass
class Loop:
    """One attempt at a run's steps."""

    current: Run
    spec: TrainSpec
    trained: Trained
    objective: Objective
    task: list[Example]
    general: list[Example]
    looks: Looks | None
    folder: CheckpointFolder | None
    world: World

    def __post_init__(self) -> None:
        self._parameters = list(self.trained.names.values())
        self._optimiser = torch.optim.AdamW(self._parameters, weight_decay=0.0)
        self._watch = Watch(self.spec.guards)
        self._best: dict[str, torch.Tensor] | None = None
        self._saved = 0
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._writing: _Writing | None = None
        self._last: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """Takes the steps that are left, and returns when the last checkpoint is on the disk; see `_run`."""
        with self._writer:
            return self._run()

    def _run(self) -> dict[str, Any]:
        """Takes the steps that are left and leaves the best weights in the model.

        These are the weights of the best validation, or of the last step if the recipe has no validation. Returns the
        steps done, the last step's metrics, the memory probe's figures and the history of validations.

        Raises:
            Diverged: a guard gave up; the step in hand was not taken. Or see `_save`.
            Preempted: stopped on request; a checkpoint of the last step is on the disk.
            OutOfMemory: the longest batch does not fit.
            BadSpec: see `CheckpointFolder.latest`.
        """
        spec = self.spec
        done = self._resume()
        memory = self._probe()
        self.trained.model.train()
        if self.looks is not None and not self.looks.history:
            self.current.phase("looking at the base")
            self.looks.begin()
            self._say_look(0)
        share = spec.mixing.share if spec.mixing else 0.0
        every = spec.validation.every if spec.validation else spec.steps
        drawn = batches(self.task, spec.batch, spec.seed, self.general, share, lambda row: row.weight)
        for step, rows in enumerate(islice(drawn, done, spec.steps), done + 1):
            if self.looks is not None and self.looks.stop:
                break
            self._last = self._step(step, rows)
            done = step
            if self.looks is not None and (step % every == 0 or step == spec.steps):
                if self.looks.look(step):
                    self._best = self.trained.weights()
                self._say_look(step)
            stopping = self.world.any(self.current.stopping)
            if step < spec.steps and (stopping or step % spec.checkpoint_every == 0):
                self._save(step)
            if stopping and step < spec.steps:  # after the last one, publishing is the quickest way out
                self._written()
                raise Preempted
            if self._writing is not None and self._writing.done.done():
                self._written()
            self.current.beat()
        self._written()
        if self._best is not None:
            self.trained.restore(self._best)
        return {"steps": done, **self._last, **memory, **self._chosen()}

    def _step(self, step: int, rows: list[Example]) -> dict[str, float]:
        """Takes one step: gradients of all pieces and processes, then the guards, and only then the weights."""
        began = time.monotonic()
        rate = learning_rate(self.spec, step - 1)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        metrics = self._gradients(step, rows)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, CLIP))
        self._watch.look(step, metrics["loss"], norm)
        if "logps_chosen" in metrics:
            self._watch.chosen(step, metrics["logps_chosen"], metrics["logps_reference"])
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        tokens = sum(len(example.ids) + len(example.rejected) for example in rows)
        found: dict[str, float] = {
            **metrics,
            "grad_norm": norm,
            "learning_rate": rate,
            "tokens_per_second": tokens / (time.monotonic() - began),
        }
        self.current.progress(step, self.spec.steps, "", **found)
        return found

    def _gradients(self, step: int, rows: list[Example]) -> dict[str, float]:
        total: dict[str, float] = {}
        for number, piece in self.world.share(rows, self.spec.pieces):
            torch.manual_seed(piece_seed(self.spec.seed, step, number))
            loss, metrics = self.objective.loss(piece, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            for key, value in metrics.items():
                total[key] = total.get(key, 0.0) + value
        if self.world.size == 1:
            return total
        flat = torch.cat(
            [p.grad.reshape(-1) if p.grad is not None else torch.zeros_like(p).reshape(-1) for p in self._parameters]
        )
        self.world.sum(flat)
        for parameter, part in zip(
            self._parameters, torch.split(flat, [p.numel() for p in self._parameters]), strict=True
        ):
            parameter.grad = part.view_as(parameter)
        summed = self.world.sum(torch.tensor(list(total.values()), dtype=torch.float64, device=flat.device))
        return dict(zip(total, summed.tolist(), strict=True))

    def _probe(self) -> dict[str, float]:
        """Probes the memory with the longest rows that a process may have to hold at once, forward and backward."""
        everything = sorted([*self.task, *self.general], key=lambda example: example.longest, reverse=True)
        rows = everything[: max(1, self.spec.batch // self.spec.pieces)]

        def step() -> None:
            self.trained.model.train()
            loss, _ = self.objective.loss(rows, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.zero_grad(set_to_none=True)

        self.current.phase("probing the longest batch")
        kept = 0 if self._saved else 2 * sum(p.numel() * p.element_size() for p in self._parameters)
        found = probe(step, kept)
        longest = float(rows[0].longest)
        self.current.phase("the longest batch fits", longest_tokens=longest, **found)
        return found

    def _resume(self) -> int:
        """Resumes from the last good checkpoint and returns the number of steps it had done."""
        if self.folder is None:
            return 0
        checkpoint, reasons = self.folder.latest()
        for reason in reasons:
            self.current.phase(f"skipped a checkpoint: {reason}")
        if checkpoint is None:
            return 0
        self.trained.restore(checkpoint.tensors["weights"])
        restore_optimizer(self._optimiser, self.trained.names, checkpoint.tensors["optimizer"])
        self._best = checkpoint.tensors.get("best")
        state = checkpoint.state
        self._watch.restore(state["watch"])
        self._last = state["last"]
        if self.looks is not None:
            self.looks.resume(state["looks"], state["best"], state["base_canaries"])
        self._saved = checkpoint.step
        differing = [
            f"{k} {state['made_by'].get(k)}, now {v}"
            for k, v in self._made_by().items()
            if state["made_by"].get(k, v) != v
        ]
        exact = f"other rounding is possible: {'; '.join(differing)}" if differing else "bit for bit"
        self.current.phase(f"resumed after step {checkpoint.step}, {exact}")
        return checkpoint.step

    def _save(self, step: int) -> None:
        """Copies weights and optimiser, and has them written beside the next steps.

        Raises:
            Diverged: `ranks_differ`: the processes no longer have the same weights.
            OSError: the disk refused the checkpoint before this one.
        """
        if not self.world.same(self.trained.checksum()):
            raise Diverged(
                f"step {step}: the processes have different weights, which the same gradients cannot make: a GPU or "
                "its memory computes wrongly. Take that node out, and resume from the last checkpoint",
                "ranks_differ",
            )
        if self.folder is not None and self.world.first and step != self._saved:
            began = time.monotonic()
            self._written()
            tensors = {
                "weights": self.trained.weights(),
                "optimizer": optimizer_tensors(self._optimiser, self.trained.names),
                **({"best": self._best} if self._best is not None else {}),
            }
            copies = {  # of the writer's own, and none of them on a device that the next step uses
                group: {name: value.detach().cpu().clone() for name, value in values.items()}
                for group, values in tensors.items()
            }
            done = self._writer.submit(self.folder.save, step, copies, copy.deepcopy(self._state()))
            self._writing = _Writing(step, done, time.monotonic() - began)
            self._saved = step
        self.world.wait()

    def _written(self) -> None:
        """Waits for the checkpoint that is being written, if one is, and reports it.

        Raises: OSError: the disk refused it; the last good checkpoint stays the one before.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        path = writing.done.result()
        self.current.emit(
            ExecutorEventType.CHECKPOINT,
            step=writing.step,
            of=self.spec.steps,
            metrics={"checkpoint_seconds": writing.stall},
            data={"folder": path.name},
        )

    def _state(self) -> dict[str, Any]:
        return {
            "watch": self._watch.state(),
            "last": self._last,
            "looks": self.looks.history if self.looks else [],
            "best": self.looks.best if self.looks else None,
            "base_canaries": self.looks.base_canaries if self.looks else [],
            "made_by": self._made_by(),
        }

    def _made_by(self) -> dict[str, Any]:
        """Versions and hardware facts on which rounding depends, beside the recipe."""
        return {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "processes": self.world.size,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        }

    def _say_look(self, step: int) -> None:
        assert self.looks is not None
        found = {f"val_{key}": value for key, value in self.looks.history[-1].items() if key != "step"}
        said = self.looks.alerts(self.spec.steps)
        told = f"ALERT: {'; '.join(said)}" if said else "looked at held-back rows"
        self.current.progress(step, self.spec.steps, told, **found)

    def _chosen(self) -> dict[str, Any]:
        """Returns what the result says of the validations and of the one that is published; empty without any."""
        if self.looks is None or self.looks.best is None:
            return {}
        return told(self.looks.history, self.looks.best)
