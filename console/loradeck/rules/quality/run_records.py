"""Warnings of a recipe's beta, learning rate and rows: how many of a hub's earlier runs with such ended at a cliff.

A run counts once it is done or a guard has ended it, and the same recipe counts once: it would end the same way again.
Runs are held against a recipe that have its base, its method and its weights. Of each setting those speak that are at
least as far out as the recipe: no higher a beta, no lower a learning rate, no more rows. They are a record and no
experiment: who lowered beta may have changed something else as well, and so the others stand beside them.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import Job, JobState, TrainSpec
from loradeck.schemas.training import PAIRS

CLIFFS = frozenset({"diverged", "loss_spike", "chosen_fell", "safety_fell", "toxicity_rose", "suite_fell"})
"""Codes with which guards end a run."""

FEWEST = 8
"""Runs with a setting below which nothing is said of it."""

OFTEN = 0.2
"""Share of runs that end at a cliff of which something is said, where the interval lies above it."""


class Record(NamedTuple):
    """Runs with a setting like a recipe's, and the others. `fell`, `others_fell`: of those the ones that fell."""

    setting: str
    fell: int
    n: int
    others_fell: int
    others: int

    @property
    def words(self) -> str:
        """The record in a sentence."""
        rest = f"; of others {_share(self.others_fell, self.others)}" if self.others else ""
        return f"{self.setting}: {_share(self.fell, self.n)} ended at a cliff{rest}"


def records(spec: TrainSpec, runs: Iterable[Job], rows: Mapping[str, int]) -> list[Record]:
    """Lists the settings of a recipe with which runs have often ended at a cliff; of fewer than `FEWEST` nothing.

    `rows`: dataset -> its rows; a run on one that is not named says nothing of its size.
    """
    fell = dict[str, tuple[TrainSpec, bool]]()
    for job in runs:
        one = job.spec
        if not isinstance(one, TrainSpec) or not (job.state is JobState.DONE or job.code in CLIFFS):
            continue
        if (one.base, one.method, one.weights) == (spec.base, spec.method, spec.weights):
            fell.setdefault(digest_of(one.model_dump(mode="json", exclude={"decision"})), (one, job.code in CLIFFS))
    known, size = list(fell.values()), _size(spec, rows)
    about = {
        f"runs with a learning rate of {spec.learning_rate:g} or more": [
            (one.learning_rate >= spec.learning_rate, bad) for one, bad in known
        ]
    }
    if spec.method in PAIRS:
        about[f"runs with a beta of {spec.beta:g} or less"] = [(one.beta <= spec.beta, bad) for one, bad in known]
    if size is not None:
        sizes = [(_size(one, rows), bad) for one, bad in known]
        about[f"runs on {size:,} rows or fewer"] = [(its <= size, bad) for its, bad in sizes if its is not None]
    found = []
    for setting, of in about.items():
        alike, others = [bad for like, bad in of if like], [bad for like, bad in of if not like]
        record = Record(setting, sum(alike), len(alike), sum(others), len(others))
        if is_said(record):
            found.append(record)
    return found


def is_said(record: Record) -> bool:
    """Tells whether a record says enough: of enough runs, often, and more often than others."""
    more = not record.others or record.fell * record.others > record.others_fell * record.n
    return record.n >= FEWEST and wilson(record.fell, record.n)[0] > OFTEN and more


def _size(spec: TrainSpec, rows: Mapping[str, int]) -> int | None:
    of = [rows.get(digest) for digest in set(spec.datasets)]
    return sum(one for one in of if one is not None) if None not in of else None


def _share(k: int, n: int) -> str:
    low, high = wilson(k, n)
    return f"{k} of {n} ({low:.0%} to {high:.0%})"
