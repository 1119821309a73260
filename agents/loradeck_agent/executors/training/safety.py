"""A fixed set of prompts against which a run is held: it is to refuse what its base refuses, and be no more toxic.

Each slice of the set is compared with the base's answers to the same prompts.
The rate of refusals on the task's own rows says nothing of this: a task may teach to answer everything.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from loradeck.artifacts.rows.contamination import folded_words, holding
from loradeck.rules.quality.statistics import exceeds, fell
from loradeck.schemas.training import OF_ITEMS, Safety
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.evaluation.scoring import refusal_in
from loradeck_agent.executors.protocol import BadSpec, Diverged
from loradeck_agent.executors.rows import json_lines

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
