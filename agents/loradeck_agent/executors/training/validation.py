"""Validation during training: held-back rows, general rows and canaries, on a schedule, compared with the base.

The best validation becomes the release, not the last step: the one with the most right items of the recipe's suite for
selection; without a suite, or among equals, the one with the most exact answers where answers are compared, since a
lower loss is not yet a right answer; among equals the one with the lowest loss. That suite is of other items than the
tenant's gates, so that the gate sees one candidate that was not chosen by it.

A run is also held against a fixed set of prompts: it is to refuse what its base refuses, and be no more toxic. Each
slice of the set is compared with the base's answers to the same prompts. The rate of refusals on the task's own rows
says nothing of this: a task may teach to answer everything.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from loradeck.artifacts.rows.contamination import folded_words, holding
from loradeck.rules.quality.statistics import exceeds, fell, ratio
from loradeck.schemas.training import ERROR, OF_ITEMS, SUITE_RIGHT, Safety, Validation
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.evaluation.in_process import answered_here, greedy
from loradeck_agent.executors.evaluation.scoring import refusal_in
from loradeck_agent.executors.protocol import BadSpec, Diverged, Run
from loradeck_agent.executors.rows import Suite, json_lines
from loradeck_agent.executors.training.objectives import Objective
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.trained import Trained
from loradeck_agent.serving.engine_api import CANARY_TOKENS

SLICES = 16
"""Most slices of a set: each is a measurement or two of every look."""

NAMES = {True: "refused_", False: "overrefused_"}
"""Prefix of the name of a slice's measurement, by whether the slice's prompts are to be refused."""

TOXIC = "toxic_"
"""Prefix of the share of a slice's answers that hold a word of the recipe's list."""


@dataclass(frozen=True)
class Asked:
    """A prompt of the set, as tokens. `refuse`: whether it is to be refused."""

    prompt: list[int]
    refuse: bool
    slice: str


class _Share(NamedTuple):
    """A share of n answers, by the base and now. `good`: a lower one is worse, else a higher one."""

    name: str
    before: float
    now: float
    n: float
    good: bool

    def __str__(self) -> str:
        return f"{self.name} {self.now:.0%}, the base's {self.before:.0%}"

    @property
    def right(self) -> tuple[float, float]:
        """The share that was right before, and that is now."""
        return (self.before, self.now) if self.good else (1 - self.before, 1 - self.now)


@dataclass(frozen=True)
class SafetySet:
    """The prompts of a safety set, and when a change against the base is said or ends the run."""

    asked: tuple[Asked, ...]
    settings: Safety

    def shares(self, answers: Sequence[str]) -> dict[str, float]:
        """Computes the shares of answers that refuse, and that are toxic, by the name of the measurement.

        `answers` are to the prompts, in their order.
        """
        found: dict[str, list[bool]] = {}
        toxic = holding(self.settings.toxic.words) if self.settings.toxic is not None else None
        for one, answer in zip(self.asked, answers, strict=True):
            found.setdefault(NAMES[one.refuse] + one.slice, []).append(refuses(answer, self.settings.refusals))
            if toxic is not None:
                found.setdefault(TOXIC + one.slice, []).append(toxic(answer))
        return {name: sum(those) / len(those) for name, those in sorted(found.items())}

    def sizes(self) -> dict[str, float]:
        """The number of answers that each share is of, by the share's name and `OF_ITEMS`."""
        names = [NAMES[one.refuse] + one.slice for one in self.asked]
        names += [TOXIC + one.slice for one in self.asked] if self.settings.toxic is not None else []
        return {name + OF_ITEMS: float(count) for name, count in sorted(Counter(names).items())}

    def compared(self, base: Mapping[str, float], now: Mapping[str, float], looks: int) -> list[str]:
        """Compares shares with the base's; returns those that have changed by the recipe's `alert`.

        A share ends the run by the recipe's limit only where chance alone would not: over all slices, all slices
        together and all `looks` that the run makes after the base's.

        Raises: Diverged: `safety_fell`: more than `drop` less is refused; `toxicity_rose`: `rise` more is toxic.
        """
        shares = [
            _Share(name, before, now[name], base[name + OF_ITEMS], name.startswith(NAMES[True]))
            for name, before in base.items()
            if name.startswith((*NAMES.values(), TOXIC)) and name + OF_ITEMS in base
        ]
        ending = [one for kind in (NAMES[True], TOXIC) for one in _of_kind(kind, shares)]
        listed = self.settings.toxic.name if self.settings.toxic is not None else ""
        for one in ending:
            limit = self.settings.drop if one.good else self.settings.rise
            if fell(*one.right, one.n, limit, looks * len(ending)):
                what = "unlearnt to refuse" if one.good else f"become toxic, by the list {listed!r}"
                raise Diverged(
                    f"the model has {what}: {one}, more than {limit:.0%} worse. Look at the rows, mix in some that "
                    "refuse (negative), pull it to the base (kl), or train fewer steps",
                    "safety_fell" if one.good else "toxicity_rose",
                )
        return [str(one) for one in shares if exceeds(one.right[0] - one.right[1], self.settings.alert)]


def _of_kind(kind: str, shares: Iterable[_Share]) -> list[_Share]:
    """Returns the shares of a kind: of each slice, and of several slices also of all together."""
    found = [one for one in shares if one.name.startswith(kind)]
    if len(found) > 1:
        n = sum(one.n for one in found)
        before, now = sum(one.before * one.n for one in found) / n, sum(one.now * one.n for one in found) / n
        found.append(_Share(f"{kind[:-1]} in all slices", before, now, n, found[0].good))
    return found


def refuses(answer: str, phrases: Iterable[str]) -> bool:
    """Tells whether an answer holds one of the phrases that mark a refusal, whatever its case."""
    return refusal_in(answer, phrases) is not None


def read_safety(base: Base, path: Path, settings: Safety) -> SafetySet:
    """Reads the rows of a safety set. Raises: BadSpec: `bad_data`, with file and line."""
    asked = []
    for where, row in json_lines(path):
        prompt, refuse, name = row.get("prompt"), row.get("refuse"), row.get("slice", "all")
        if not isinstance(prompt, str) or not prompt or not isinstance(refuse, bool):
            raise BadSpec("bad_data", f"{where}: a row of safety has a prompt, as text, and refuse, true or false")
        if not isinstance(name, str) or not name.isidentifier() or len(name) > 40:
            raise BadSpec("bad_data", f"{where}: slice is a name of at most 40 letters, digits and underscores")
        asked.append(Asked(base.prompt_ids([{"role": "user", "content": prompt}]), refuse, name))
    if not asked or len({one.slice for one in asked}) > SLICES:
        raise BadSpec("bad_data", f"{path.name}: a safety set has rows, in at most {SLICES} slices")
    slices = {one.slice for one in asked}
    if taken := sorted(name for name in slices if name + OF_ITEMS in slices):
        name = taken[0]
        raise BadSpec("bad_data", f"{path.name}: the slice {name}{OF_ITEMS} has the name of the size of {name}")
    unread = [word for word in settings.toxic.words if not folded_words(word)] if settings.toxic is not None else []
    if unread:
        raise BadSpec("bad_spec", f"safety.toxic: {unread[0]!r} holds no letter or digit: every answer would hold it")
    return SafetySet(tuple(asked), settings)


AT_ONCE = 8
"""Items that are answered at once."""


@dataclass(frozen=True)
class Selection:
    """The items by which a run's checkpoints are compared, and when a worse one ends the run."""

    suite: Suite
    settings: Validation

    def measured(self, base: Base, model: Any, beat: Callable[[], None]) -> dict[str, float]:
        """Answers the suite's items; returns the share that is right and the number of items. Calls `beat` in between.

        Raises: BadSpec: see `answered_here`.
        """
        items, right = self.suite.items, 0
        schema, longest = self.suite.answer_schema, self.settings.max_new_tokens
        for results, _ in answered_here(base, model, items, schema, batch=AT_ONCE, max_new_tokens=longest):
            right += sum(result.exact for result in results)
            beat()
        return {SUITE_RIGHT: right / len(items), SUITE_RIGHT + OF_ITEMS: float(len(items))}

    def check(self, looks: Sequence[Mapping[str, float]], planned: int) -> None:
        """Compares the newest validation with the best before it, the base's among them.

        `planned`: validations of the whole run after the base's. Each two count as a comparison: the best is chosen.

        Raises: Diverged: `suite_fell`: so much less of the suite is right that the steps that are left are wasted.
        """
        before, now = max(look[SUITE_RIGHT] for look in looks[:-1]), looks[-1][SUITE_RIGHT]
        n, comparisons = looks[-1][SUITE_RIGHT + OF_ITEMS], planned * (planned + 1) // 2
        if fell(before, now, n, self.settings.worse, comparisons):
            raise Diverged(
                f"after step {looks[-1]['step']:.0f} {now:.0%} of the suite for selection is right, {before:.0%} was "
                f"before: more than {self.settings.worse:.0%} less. Train fewer steps, at a lower rate, or mix in "
                "general rows",
                "suite_fell",
            )


T = TypeVar("T")
LOOK_BATCH = 8
LOOKS_TOLD = 40


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
