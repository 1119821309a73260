"""Validation during training: held-back rows, general rows and canaries, on a schedule, compared with the base.

The best validation becomes the release, not the last step: the one with the most right items of the recipe's suite for
selection; without a suite, or among equals, the one with the most exact answers where answers are compared, since a
lower loss is not yet a right answer; among equals the one with the lowest loss.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch

from loradeck.rules.quality.statistics import ratio
from loradeck.schemas.training import ERROR, OF_ITEMS, SUITE_RIGHT, Validation
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.evaluation.greedy import greedy
from loradeck_agent.executors.protocol import Run
from loradeck_agent.executors.training.safety import SafetySet, refuses
from loradeck_agent.executors.training.selection import Selection
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.trained import Trained
from loradeck_agent.serving.engine_api import CANARY_TOKENS

T = TypeVar("T")
LOOK_BATCH = 8
LOOKS_TOLD = 40


class Objective(Protocol):
    """The objective of a recipe: its loss over pieces of a step, and its measure of rows that are not trained on."""

    def size(self, examples: Sequence[Example]) -> float:
        """The number of units (answer tokens or pairs) in these rows, by which sums are divided."""

    def loss(self, examples: Sequence[Example], step: Sequence[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        """Returns one piece's share of a step's loss, and of its metrics; `step`: all rows of the step."""

    def look(self, examples: Sequence[Example]) -> list[tuple[float, float]]:
        """Summed loss of each row, and the number of its units that are right."""


@dataclass(frozen=True)
class HeldBack:
    """Rows that are never trained on: of the task, and general ones."""

    task: list[Example]
    general: list[Example]


def hold_back(
    rows: Sequence[T], count: int, seed: int, same: Callable[[T], Hashable] = lambda row: row
) -> tuple[list[T], list[T]]:
    """Splits rows by the seed into rows to train on and up to `count` held back; one is left to train on at least.

    Rows that are the `same` stay together: one that is held back and trained on as well would be known by heart.
    """
    kinds: dict[Hashable, list[int]] = {}
    for i, row in enumerate(rows):
        kinds.setdefault(same(row), []).append(i)
    groups = list(kinds.values())
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: set[int] = set()
    for group in (groups[i] for i in order[: len(groups) - 1]):
        if len(chosen) + len(group) <= count:
            chosen.update(group)
    return [row for i, row in enumerate(rows) if i not in chosen], [row for i, row in enumerate(rows) if i in chosen]


def _rank(look: Mapping[str, float]) -> tuple[float, float, float]:
    """Sort key of a validation result, the best first."""
    return -look.get(SUITE_RIGHT, 0.0), -look.get("exact", 0.0), look["loss"]


def told(history: Sequence[Mapping[str, float]], best: int) -> dict[str, Any]:
    """Returns what a run tells of its validations at its end: the base's, the newest, the chosen one, and their number.

    A long run has more of them than an event may hold.
    """
    return {
        "looks": [*history[:1], *history[1:][-LOOKS_TOLD:]],
        "chosen": history[best],
        "chosen_step": int(history[best]["step"]),
        "compared": len(history) - 1,
    }


@dataclass(eq=False)
class Looks:
    """The validations of a run. `history[0]` is the base's, before the first step."""

    _current: Run
    _base: Base
    _trained: Trained
    _objective: Objective
    _held: HeldBack
    _settings: Validation
    _safety: SafetySet | None = None
    _selection: Selection | None = None
    history: list[dict[str, float]] = field(default_factory=list, init=False)
    base_canaries: list[list[int]] = field(default_factory=list, init=False)
    """The base's answers to the canaries, as tokens."""
    best: int | None = field(default=None, init=False)
    """Index in `history` of the best validation after a step; None before the first."""

    def __post_init__(self) -> None:
        asked = self._current.spec.canaries
        self._canaries = [self._base.prompt_ids([dict(m) for m in messages]) for messages in asked]

    @property
    def stop(self) -> bool:
        """Whether the recipe's patience is used up: so many validations in a row were no better than the best."""
        patience = self._settings.patience
        return patience is not None and self.best is not None and len(self.history) - 1 - self.best >= patience

    def begin(self) -> None:
        """Validates the base before the first step; later canary answers are compared with the base's."""
        with self._trained.as_base(), self._trained.evaluating():
            self.base_canaries = self._greedy(self._canaries, CANARY_TOKENS)
            self.history = [self._look(0) | (self._safety.sizes() if self._safety is not None else {})]

    def resume(self, history: list[dict[str, float]], best: int | None, base_canaries: list[list[int]]) -> None:
        """Restores an earlier attempt's results, the base's too: where all weights are trained it is gone."""
        self.history, self.best, self.base_canaries = history, best, base_canaries

    def look(self, step: int) -> bool:
        """Validates after a step; returns whether it is the best result so far."""
        self.history.append(self._look(step))
        if self.best is None or _rank(self.history[-1]) < _rank(self.history[self.best]):
            self.best = len(self.history) - 1
            return True
        return False

    def alerts(self, steps: int) -> list[str]:
        """Returns what is to be said of the newest validation of a run of so many steps; ends one that became worse.

        The answers to the safety set are compared with the base's, those to the suite with the best validation before.

        Raises: Diverged: `safety_fell`, `toxicity_rose`, `suite_fell`.
        """
        planned = math.ceil(steps / self._settings.every)
        if self._selection is not None and len(self.history) > 1:
            self._selection.check(self.history, planned)
        return self._safety.compared(self.history[0], self.history[-1], planned) if self._safety is not None else []

    def _look(self, step: int) -> dict[str, float]:
        with self._trained.evaluating():
            return self._measured(step)

    def _measured(self, step: int) -> dict[str, float]:
        found = {"step": float(step)} | self._measure(self._held.task)
        if self._held.general:
            found |= {f"general_{name}": value for name, value in self._measure(self._held.general).items()}
        answered = self._held.task[: self._settings.answers]
        if answered:
            answers = self._greedy([e.ids[: e.last_answer_at] for e in answered], self._settings.max_new_tokens)
            right = [e.ids[e.last_answer_at :] == tokens for e, tokens in zip(answered, answers, strict=True)]
            found["exact"] = sum(right) / len(right)
            refused = [refuses(self._base.text(tokens), self._settings.refusals) for tokens in answers]
            found["refusal_rate"] = sum(refused) / len(refused)
            found["exact" + OF_ITEMS] = found["refusal_rate" + OF_ITEMS] = float(len(answered))
        if self._selection is not None:
            found |= self._selection.measured(self._base, self._trained.model, self._current.beat)
        if self._safety is not None:
            asked = self._safety.asked
            answers = self._greedy([one.prompt for one in asked], self._safety.settings.max_new_tokens)
            found |= self._safety.shares([self._base.text(tokens) for tokens in answers])
        if self._canaries:
            now = self._greedy(self._canaries, CANARY_TOKENS)
            found["canaries_changed"] = sum(a != b for a, b in zip(now, self.base_canaries, strict=True)) / len(now)
            found["canaries_changed" + OF_ITEMS] = float(len(now))
        return found

    def _measure(self, examples: list[Example]) -> dict[str, float]:
        """Mean loss and share of right units (tokens or pairs), each with its standard error over rows."""
        ordered = sorted(examples, key=lambda example: len(example.ids))
        rows = list[tuple[float, float]]()
        for start in range(0, len(ordered), LOOK_BATCH):
            rows += self._objective.look(ordered[start : start + LOOK_BATCH])
            self._current.beat()
        sizes, found = [self._objective.size([example]) for example in ordered], {}
        for name, sums in zip(("loss", "accuracy"), zip(*rows, strict=True), strict=True):
            found[name], found[name + ERROR] = ratio(sums, sizes)
            found[name + OF_ITEMS] = float(len(rows))
        return found

    def _greedy(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        found: list[list[int]] = []
        for start in range(0, len(prompts), LOOK_BATCH):
            part = prompts[start : start + LOOK_BATCH]
            answers = greedy(self._trained.model, part, tokens, eos=self._base.eos, pad=self._base.pad)
            found += [answer.tokens for answer in answers]
            self._current.beat()
        return found
