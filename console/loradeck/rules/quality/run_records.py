"""Runs of training beside each other: how earlier runs like a recipe ended, and sweeps of one recipe.

A recipe's beta, learning rate and rows are warned of by how many of a hub's earlier runs with such ended at a cliff. A
run counts once it is done or a guard has ended it, and the same recipe counts once: it would end the same way again.
Runs are held against a recipe that have its base, its method and its weights. Of each setting those speak that are at
least as far out as the recipe: no higher a beta, no lower a learning rate, no more rows. They are a record and no
experiment: who lowered beta may have changed something else as well, and so the others stand beside them.

A sweep is one recipe with several shares of general rows and ranks, and what its runs measured side by side.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loradeck.rules.errors import Refused
from loradeck.rules.quality.figures import estimate, interval
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import Job, JobState, Looked, TrainSpec
from loradeck.schemas.training import ERROR, OF_ITEMS, PAIRS

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


RUNS = 64
"""Most runs of a sweep."""


def grid(recipe: TrainSpec, shares: Sequence[float], ranks: Sequence[int]) -> list[TrainSpec]:
    """The recipes of a sweep: each share of general rows with each rank. Where none are given, the recipe's own.

    Alpha changes with the rank, so that an adapter of another rank has the same scale (alpha / rank, or
    alpha / sqrt(rank) with `rslora`).

    Raises: Refused `invalid_request`: the recipe says nothing by which its runs could be compared, or has no general
        rows; a share or rank is out of bounds.
    """
    wrong = {
        "the recipe's validation names no suite, so nothing compares the runs": recipe.validation is None
        or recipe.validation.suite is None,
        "the recipe mixes no general rows in, so there is no share to change": shares and recipe.mixing is None,
        "the recipe goes on from a parent, whose rank it has": ranks and recipe.parent is not None,
        "the recipe's rank_pattern and alpha_pattern are of its own rank": ranks
        and (recipe.rank_pattern or recipe.alpha_pattern),
        "a share of general rows is above 0 and under 1": any(not 0 < share < 1 for share in shares),
        f"a sweep has at most {RUNS} runs, and ranks are 1 to 512": max(1, len(shares)) * max(1, len(ranks)) > RUNS
        or any(not 1 <= rank <= 512 for rank in ranks),
    }
    for title, broken in wrong.items():
        if broken:
            fix = "[validation] suite = a suite for selection; [mixing] = general rows; [safety] = a fixed set"
            raise Refused("invalid_request", title, fix=fix)
    found = []
    pairs = [
        (share, rank) for share in dict.fromkeys(shares) or (None,) for rank in dict.fromkeys(ranks) or (recipe.rank,)
    ]
    for share, rank in pairs:
        alpha = max(1, round(recipe.alpha * (rank / recipe.rank) ** (0.5 if recipe.rslora else 1)))
        mixing = recipe.mixing.model_copy(update={"share": share}) if recipe.mixing and share else recipe.mixing
        found.append(recipe.model_copy(update={"rank": rank, "alpha": alpha, "mixing": mixing}))
    return found


@dataclass(frozen=True)
class Measured:
    """A measurement of a published checkpoint, beside its base's, each with a 95 % interval over `n` items or rows.

    None: not known, as in jobs of before, or there are too few for an interval.
    """

    name: str
    value: float
    base: float | None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    base_low: float | None = None
    base_high: float | None = None


@dataclass(frozen=True)
class RunOfSweep:
    """A training job beside others. `why`: why it failed; `compared`: the checkpoints that its own is the best of."""

    job: str
    state: JobState
    share: float | None
    rank: int
    step: int
    compared: int
    measured: tuple[Measured, ...]
    why: str


def run_of(job: Job) -> RunOfSweep:
    """A training job as it is compared. Raises: Refused `invalid_request`: it is a job of another kind."""
    spec = job.spec
    if not isinstance(spec, TrainSpec):
        raise Refused("invalid_request", f"job {job.id} is no training job", detail=job.kind)
    looked = Looked.model_validate((job.result or {}).get("looked") or {})
    return RunOfSweep(
        job=job.id,
        state=job.state,
        share=spec.mixing.share if spec.mixing is not None else None,
        rank=spec.rank,
        step=looked.chosen_step,
        compared=looked.compared,
        measured=measured(looked),
        why=f"{job.code}: {job.message}" if job.code else "",
    )


def measured(looked: Looked) -> tuple[Measured, ...]:
    """Reads what was measured of a published checkpoint, by name, with intervals where their n is known."""
    found, base = [], looked.base
    for name, value in sorted(looked.chosen.items()):
        if name == "step" or name.endswith(OF_ITEMS) or name.removesuffix(ERROR) in looked.chosen.keys() - {name}:
            continue
        own = interval(name, looked.chosen, base)
        beside = interval(name, base, base)[1:] if name in base else (None, None)
        found.append(Measured(name, value, base.get(name), *own, *beside))
    return tuple(found)


def told(one: Measured) -> tuple[str, str]:
    """A measurement in words, with n and interval, and beside it the base's: ', base 50.0% (...)', or ''."""
    form = ".4g" if one.name.endswith("loss") else ".1%"
    base = "" if one.base is None else f", base {estimate(one.base, one.base_low, one.base_high, one.n, form)}"
    return estimate(one.value, one.low, one.high, one.n, form), base
