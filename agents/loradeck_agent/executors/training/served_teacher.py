"""Distillation from a teacher that an engine of the node serves: its likeliest tokens, and the rest as one bucket.

The engine is asked once, before the first step, for its `top` likeliest tokens at each answer token of the rows and how
likely it finds them. The loss is the divergence of these probabilities and what is left over from the student's on the
same buckets: a lower bound of that over the whole vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loradeck.schemas.training import Distillation
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import BadSpec, Run
from loradeck_agent.executors.training.answers import AnswerReader
from loradeck_agent.executors.training.distillation import ByTeacher, divergence
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.serving.engine_questions import EngineQuestion

LEAST = 1e-6
"""Least probability of the rest: where the likeliest tokens have all of it, rounding would leave less than nothing."""


@dataclass(frozen=True)
class Likeliest:
    """The likeliest tokens at each answer token of a row, `[tokens, top]`: their ids, and log-probabilities (nats)."""

    ids: torch.Tensor
    logs: torch.Tensor


def ask_teacher(
    current: Run, engine: Served, examples: Sequence[Example], settings: Distillation
) -> dict[tuple[int, ...], Likeliest]:
    """Asks the engine about each row; returns its answers by the rows' tokens.

    Raises:
        BadSpec: `bad_spec`: the engine does not say how likely it finds given tokens.
        ExecutorFailure: `engine_failed`.
    """
    if not engine.door.scores:
        raise BadSpec(
            "bad_spec",
            f"{engine.door.replica} serves the teacher and does not say how likely it finds given tokens: serve it by "
            'vLLM, or write way = "logits"',
        )
    current.phase("asking the engine that serves the teacher")
    rows = list({tuple(example.ids): example for example in examples}.values())
    questions = [
        EngineQuestion(prompt=tuple(row.ids), last=len(row.ids) - row.answer_at, top=settings.top) for row in rows
    ]
    found = {}
    for number, answer in engine.each(questions, current.check):
        row = rows[number]
        kept = [answer.top[place - row.answer_at] for place in row.answer_places]
        ids, logs = (torch.tensor([[pair[side] for pair in place] for place in kept]) for side in (0, 1))
        found[tuple(row.ids)] = Likeliest(ids.long(), logs.float())
    return found


def bucketed(logs: torch.Tensor) -> torch.Tensor:
    """Puts the log-probability of all other tokens behind those of the likeliest: `[tokens, top + 1]`."""
    rest = (1 - logs.exp().sum(-1, keepdim=True)).clamp(min=LEAST).log()
    return torch.cat([logs, rest], -1)


@dataclass(eq=False)
class DistilledByTop(ByTeacher):
    """Divergence from a teacher that an engine serves, over its likeliest tokens and the rest as one."""

    _reader: AnswerReader
    _teacher: dict[tuple[int, ...], Likeliest]
    _settings: Distillation

    def _each(self, examples: Sequence[Example]) -> tuple[torch.Tensor, float]:
        batch = self._reader.batch(examples)
        logits = self._reader.logits(batch)
        right = float((logits.detach().argmax(-1) == batch.targets).sum())
        said = [self._teacher[tuple(example.ids)] for example in examples]
        ids = torch.cat([one.ids for one in said]).to(logits.device)
        theirs = torch.cat([one.logs for one in said]).to(logits.device)
        ours = torch.log_softmax(logits, -1).gather(1, ids)
        return divergence(bucketed(ours), bucketed(theirs), self._settings.beta), right
