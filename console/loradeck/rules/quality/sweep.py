"""Sweeps: one recipe with several shares of general rows and ranks, and what its runs measured side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from loradeck.rules.errors import Refused
from loradeck.rules.quality.figures import estimate, interval
from loradeck.schemas.jobs import Job, JobState, Looked, TrainSpec
from loradeck.schemas.training import ERROR, OF_ITEMS

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
