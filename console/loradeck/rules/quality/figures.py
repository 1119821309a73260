"""Estimates in words: whatever was measured on a sample is shown with its 95 % interval and its n, in one form.

'62.5% (47.0% to 75.8%, n = 40)'. An interval that nobody can give is a dash, and never left out in silence:
'0.91 (-, n = 2)', and '0.91 (-, n unknown)' of reports that did not say yet what they were measured on.
"""

from collections.abc import Mapping

from loradeck.rules.quality.statistics import Z95, t95, wilson
from loradeck.schemas.freshness import Figure
from loradeck.schemas.preference import Agreement, Counted
from loradeck.schemas.training import ERROR, OF_ITEMS


def estimate(value: float, low: float | None, high: float | None, n: int | None, form: str = ".4g") -> str:
    """Says an estimate. `form`: of value and interval, as of `format`."""
    ends = ["-" if end is None else f"{end:{form}}" for end in (low, high)]
    span = "-" if ends == ["-", "-"] else " to ".join(ends)
    return f"{value:{form}} ({span}, {'n unknown' if n is None else f'n = {n:,}'})"


def share(k: float, n: int, form: str = ".1%") -> str:
    """Says a share, k of n, with Wilson's interval; '-' of nothing."""
    return estimate(k / n, *wilson(k, n), n, form) if n else "-"


def figure(of: Figure | None, form: str = ".4g", value: float | None = None) -> str:
    """Says a figure; where there is none, `value`, of which nothing more is known, or '-'."""
    if of is not None and of.n:
        return estimate(of.mean, of.low, of.high, of.n, form)
    return "-" if value is None else estimate(value, None, None, None, form)


def counted(of: Counted) -> str:
    """Says a share that was counted; '-' of nothing."""
    return share(of.k, of.n)


def alpha(of: Agreement) -> str:
    """Says the agreement of raters; 'unknown' where it cannot be told."""
    return "unknown" if of.alpha is None else estimate(of.alpha, of.low, of.high, of.n, ".2f")


def percentile(of: Figure, at: float, form: str = ".0f") -> str:
    """Says the percentile `at` (0.95) of values; '-' for its upper end where they are so few that all may lie below."""
    return estimate(of.mean, of.low, of.high if at**of.n <= 0.025 else None, of.n, form) if of.n else "-"


def around(mean: float, se: float | None, n: int | None) -> tuple[float | None, float | None]:
    """Student's 95 % interval of a mean by its standard error; None twice without one, or of fewer than three values.

    An n that is not known is taken as large.
    """
    if se is None or (n is not None and n < 3):
        return None, None
    half = (Z95 if n is None else t95(n - 1)) * se
    return mean - half, mean + half


def interval(
    name: str, of: Mapping[str, float], sizes: Mapping[str, float]
) -> tuple[int | None, float | None, float | None]:
    """n and the 95 % interval of a job's measurement by its name; None: not known.

    What has a size, from `sizes`, and no standard error beside it is a share.
    """
    n = round(sizes.get(name + OF_ITEMS, 0))
    if n < 1:
        return None, None, None
    if name + ERROR in of:
        return n, *around(of[name], of[name + ERROR], n)
    return (n, *wilson(of[name] * n, n)) if 0 <= of[name] <= 1 else (n, None, None)


def measurement(name: str, of: Mapping[str, float], sizes: Mapping[str, float], form: str = ".4g") -> str:
    """Says a job's measurement by its name; see `interval`."""
    n, low, high = interval(name, of, sizes)
    return estimate(of[name], low, high, n, form)


def measurements(of: Mapping[str, float]) -> tuple[dict[str, str], dict[str, str]]:
    """Says the figures of a job by name: those of several items or rows, and those of one step or of the job itself."""
    several, single = dict[str, str](), dict[str, str]()
    for name, value in sorted(of.items()):
        if name.endswith(OF_ITEMS) or (name.endswith(ERROR) and name.removesuffix(ERROR) in of):
            continue
        if name + OF_ITEMS in of or name.startswith("val_"):
            several[name] = measurement(name, of, of)
        else:
            single[name] = f"{value:.4g}"
    return several, single
