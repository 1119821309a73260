"""Distillation: a student learns what a teacher makes of the task's rows, by its probabilities or by its answers.

By probabilities the loss is the generalised Jensen-Shannon divergence of each answer token (GKD, arXiv:2306.13649,
equation 1, as trl's DistillationTrainer computes it). By answers (sequence-level, arXiv:1606.07947) the rows' answers
are replaced by the teacher's before the first step. Matching of inner layers is not offered: it ties the student's
shape to the teacher's.

A teacher that an engine of the node serves is asked once, before the first step, of whichever attempt, for its `top`
likeliest tokens at each answer token of the rows and how likely it finds them. The loss is the divergence of these
probabilities and of what is left over, as one bucket, from the student's on the same buckets: a lower bound of that
over the whole vocabulary.
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn import functional
from transformers import AutoTokenizer

from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.training import AnswerForm, Distillation, Precision
from loradeck_agent.executors.base import Base, check_files, read_weights
from loradeck_agent.executors.evaluation.in_process import greedy
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import BadSpec, Run
from loradeck_agent.executors.training.objectives import OfTokens
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.trained import AnswerReader, Batch
from loradeck_agent.executors.training.verifiers import well_formed
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.serving.engine_questions import EngineQuestion

ASKED = 8
"""Prompts that the teacher answers at once."""


def divergence(student: torch.Tensor, teacher: torch.Tensor, beta: float) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence (nats) of each token: `[tokens]`, from logits `[tokens, vocabulary]`.

    `beta`: 0 is KL(teacher || student), 1 is KL(student || teacher); between them it is the weight of the teacher in
    the mixture that both are compared with, and of its divergence.
    """
    ours, theirs = functional.log_softmax(student, -1), functional.log_softmax(teacher, -1)
    if beta == 0:
        return functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    if beta == 1:
        return functional.kl_div(theirs, ours, reduction="none", log_target=True).sum(-1)
    weight = torch.tensor(beta, dtype=ours.dtype, device=ours.device)
    mixed = torch.logsumexp(torch.stack([ours + torch.log1p(-weight), theirs + torch.log(weight)]), 0)
    of_teacher = functional.kl_div(mixed, theirs, reduction="none", log_target=True).sum(-1)
    of_student = functional.kl_div(mixed, ours, reduction="none", log_target=True).sum(-1)
    return weight * of_teacher + (1 - weight) * of_student


def read_teacher(folder: Path, settings: Distillation, student: Base, device: torch.device | None) -> Any:
    """Loads the teacher, a base that reads the student's tokens.

    Raises: BadSpec: `wrong_base`: the folder holds another base; `foreign_tokenizer`: its tokens are others.
    """
    check_teacher(folder, settings, student)
    return (
        read_weights(folder, Precision.BF16 if device is not None else Precision.FP32, device)
        .requires_grad_(False)
        .eval()
    )


def check_teacher(folder: Path, settings: Distillation, student: Base) -> None:
    """Checks that a folder holds the recipe's teacher, who reads the student's tokens. Raises: BadSpec."""
    check_files(folder, settings.teacher, "teacher")
    theirs, ours = AutoTokenizer.from_pretrained(folder).get_vocab(), student.tokenizer.get_vocab()
    differing = sorted(set(theirs.items()) ^ set(ours.items()))
    if differing:
        raise BadSpec(
            "foreign_tokenizer",
            f"the teacher's tokenizer has {len(theirs)} tokens and the student's {len(ours)}; {len(differing)} differ, "
            f"first {differing[0][0]!r}. A teacher of the same family reads the same tokens",
        )


def answered(current: Run, base: Base, teacher: Any, examples: Sequence[Example], spec: TrainSpec) -> list[Example]:
    """Replaces the answers of rows by the teacher's greedy ones.

    Rows that ask what an earlier one asks are left out, and so are answers that it does not end in time or that have
    another form than the recipe's structure asks for.

    Raises: BadSpec: `bad_data`: none is left.
    """
    settings, found, formless = spec.distillation, [], 0
    assert settings is not None
    form = spec.structure.form if spec.structure is not None else AnswerForm.TEXT
    schema = json.loads(spec.structure.answer_schema) if spec.structure and spec.structure.answer_schema else None
    once = {tuple(example.ids[: example.answer_at]): example for example in reversed(examples)}
    ordered = sorted(once.values(), key=lambda example: example.answer_at)
    for start in range(0, len(ordered), ASKED):
        part = ordered[start : start + ASKED]
        prompts = [example.ids[: example.answer_at] for example in part]
        for one, answer in zip(
            part, greedy(teacher, prompts, settings.max_new_tokens, eos=base.eos, pad=base.pad), strict=True
        ):
            ids = one.ids[: one.answer_at] + answer.tokens
            if answer.tokens[-1] != base.eos or len(ids) > spec.max_tokens:
                continue
            if well_formed(form, schema, base.text(one.ids[one.answer_at :]), base.text(answer.tokens)):
                found.append(replace(one, ids=ids))
            else:
                formless += 1
        current.check()
    if not found:
        raise BadSpec(
            "bad_data",
            f"the teacher ends no answer within {settings.max_new_tokens} tokens (max_new_tokens) in the recipe's form "
            f"({formless} have another)",
        )
    left_out = f"{len(examples) - len(ordered)} asked what others ask, {formless} answers have another form"
    current.phase(
        f"the teacher has answered {len(found)} of {len(examples)} rows; {left_out}", teacher_answers=float(len(found))
    )
    return found


class ByTeacher(OfTokens):
    """A student's objective: its divergence from a teacher over a step's answer tokens, divided by their number."""

    def loss(self, examples: Sequence[Example], step: Sequence[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        """This piece's share of the step's loss (nats per answer token), and of its metrics."""
        _, each, right = self._each(examples)
        loss = each.sum() / self.size(step)
        return loss, {"loss": float(loss.detach()), "token_accuracy": float(right.sum()) / self.size(step)}

    @torch.no_grad()
    def look(self, examples: Sequence[Example]) -> list[tuple[float, float]]:
        """Validation: of each row the summed divergence (nats), and how many of its tokens the student predicts."""
        batch, *both = self._each(examples)
        return list(zip(*(batch.summed(one.float(), len(examples)).cpu().tolist() for one in both), strict=True))

    @abstractmethod
    def _each(self, examples: Sequence[Example]) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        """The rows as they were read, the divergence (nats) of each answer token, and whether it is predicted."""


@dataclass(eq=False)
class Distilled(ByTeacher):
    """Divergence from a teacher that this process holds, over the whole vocabulary."""

    _reader: AnswerReader
    _teacher: AnswerReader
    _settings: Distillation
    _vocabulary: int
    """Tokens that the tokenizer has; matrices may be padded beyond, differently."""

    def _each(self, examples: Sequence[Example]) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        batch = self._reader.batch(examples)
        with torch.no_grad():
            teacher = self._teacher.logits(batch)[:, : self._vocabulary] / self._settings.temperature
        student = self._reader.logits(batch)[:, : self._vocabulary]
        right = student.detach().argmax(-1) == batch.targets
        return batch, divergence(student / self._settings.temperature, teacher, self._settings.beta), right


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
