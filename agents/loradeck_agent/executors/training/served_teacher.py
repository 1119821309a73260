"""Distillation from a teacher that an engine of the node serves: its likeliest tokens, and the rest as one bucket.

The engine is asked once, before the first step, of whichever attempt, for its `top` likeliest tokens at each answer
token of the rows and how likely it finds them. The loss is the divergence of these probabilities and what is left over
from the student's on the same buckets: a lower bound of that over the whole vocabulary.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from loradeck.schemas.ids import digest_of
from loradeck.schemas.training import Distillation
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import BadSpec, Run
from loradeck_agent.executors.training.answers import AnswerReader, Batch
from loradeck_agent.executors.training.distillation import ByTeacher, divergence
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.serving.engine_questions import EngineQuestion

FILE_ROWS = 64
"""Rows whose answers are written together."""

LEAST = 1e-6
"""Least probability of the rest: where the likeliest tokens have all of it, rounding would leave less than nothing."""


@dataclass(frozen=True)
class Likeliest:
    """The likeliest tokens at each answer token of a row, `[tokens, top]`: their ids, and log-probabilities (nats)."""

    ids: torch.Tensor
    logs: torch.Tensor


@dataclass(eq=False)
class Answers:
    """The answers of an engine to rows, kept in files, so that another attempt reads them and memory holds few."""

    _folder: Path
    _files: dict[str, Path] = field(default_factory=dict, init=False)
    _new: dict[str, torch.Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._folder.glob("*.safetensors"):
            with suppress(SafetensorError), safe_open(path, "pt") as file:  # a damaged one is asked for again
                self._files |= dict.fromkeys(file.keys(), path)

    def __contains__(self, row: Example) -> bool:
        return f"{_key(row)}.logs" in self._files or f"{_key(row)}.logs" in self._new

    def __getitem__(self, row: Example) -> Likeliest:
        ids, logs = f"{_key(row)}.ids", f"{_key(row)}.logs"
        with safe_open(self._files[logs], "pt") as file:
            return Likeliest(file.get_tensor(ids).long(), file.get_tensor(logs))

    def add(self, row: Example, top: Sequence[Sequence[tuple[int, float]]]) -> None:
        """Takes what is said of a row; a file is written of every `FILE_ROWS` of them."""
        kept = [top[place - row.answer_at] for place in row.answer_places]
        ids, logs = (torch.tensor([[pair[side] for pair in place] for place in kept]) for side in (0, 1))
        self._new |= {f"{_key(row)}.ids": ids.int(), f"{_key(row)}.logs": logs.float()}
        if len(self._new) >= 2 * FILE_ROWS:
            self.write()

    def write(self) -> None:
        """Writes what no file has yet, durably. Raises: OSError."""
        if self._new:
            path = self._folder / f"{next(iter(self._new)).partition('.')[0]}.safetensors"
            write_durably(path, save(self._new))
            self._files |= dict.fromkeys(self._new, path)
            self._new = {}


def _key(row: Example) -> str:
    return sha256(repr((row.ids, row.answer_places)).encode()).hexdigest()


def ask_teacher(
    current: Run, engine: Served, examples: Sequence[Example], settings: Distillation, folder: Path
) -> Answers:
    """Asks the engine about each row that no earlier attempt has asked it about, and keeps its answers in `folder`.

    Raises:
        BadSpec: `bad_spec`: the engine does not say how likely it finds given tokens.
        ExecutorFailure: `engine_failed`.
    """
    if not engine.door.scores:
        raise BadSpec(
            "bad_spec",
            f"{engine.door.replica} serves the teacher and does not say how likely it finds given tokens: serve it by "
            'vLLM on a GPU, or write way = "logits"',
        )
    current.phase("asking the engine that serves the teacher")
    said = Answers(folder / f"teacher-{digest_of(settings)[:16]}")
    rows = [row for row in {_key(row): row for row in examples}.values() if row not in said]
    questions = [
        EngineQuestion(prompt=tuple(row.ids), last=len(row.ids) - row.answer_at, top=settings.top) for row in rows
    ]
    try:
        for number, answer in engine.each(questions, current.check) if questions else ():
            said.add(rows[number], answer.top)
    finally:
        said.write()
    return said


def bucketed(logs: torch.Tensor) -> torch.Tensor:
    """Puts the log-probability of all other tokens behind those of the likeliest: `[tokens, top + 1]`."""
    rest = (1 - logs.exp().sum(-1, keepdim=True)).clamp(min=LEAST).log()
    return torch.cat([logs, rest], -1)


@dataclass(eq=False)
class DistilledByTop(ByTeacher):
    """Divergence from a teacher that an engine serves, over its likeliest tokens and the rest as one."""

    _reader: AnswerReader
    _teacher: Answers
    _settings: Distillation

    def _each(self, examples: Sequence[Example]) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        batch = self._reader.batch(examples)
        logits = self._reader.logits(batch)
        right = logits.detach().argmax(-1) == batch.targets
        said = [self._teacher[example] for example in examples]
        ids = torch.cat([one.ids for one in said]).to(logits.device)
        theirs = torch.cat([one.logs for one in said]).to(logits.device)
        ours = torch.log_softmax(logits, -1).gather(1, ids)
        return batch, divergence(bucketed(ours), bucketed(theirs), self._settings.beta), right
