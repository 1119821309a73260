"""How capacity is said, in console and commands: shares, counts that may not be known, and what a plan comes to."""

from collections.abc import Iterator

from loradeck.schemas.capacity import CapacityPlan, CapacityRow


def of(held: tuple[int, int] | None) -> str:
    """Says what is held of so many slots: '12/128', or 'unknown'."""
    return "unknown" if held is None else f"{held[0]}/{held[1]}"


def count(figure: int | None) -> str:
    """Says a count, or '-' where nobody knows it."""
    return "-" if figure is None else str(figure)


def share(figure: float | None) -> str:
    """Says a share in percent, or '-' where it is not known."""
    return "-" if figure is None else f"{figure:.1%}"


def load(row: CapacityRow) -> str:
    """Says how long a load takes there, or '-' where none was timed."""
    return "-" if row.load_s is None else f"{row.load_s:.2g} s"


def verdict(plan: CapacityPlan) -> str:
    """Says whether it fits and how many would be colder, 'fits; 3 routes would be colder'."""
    where = ", ".join(plan.short[:4]) + (" ..." if len(plan.short) > 4 else "")
    colder = f"{plan.total} route{'s' * (plan.total > 1)} would be colder" if plan.total else "no route would be colder"
    return f"{'fits' if plan.fits else f'does not fit on {where}'}; {colder}"


def lines(plan: CapacityPlan, most: int = 10) -> Iterator[str]:
    """Says who would be colder, what is met by how many requests, and what one more node would buy, a line each."""
    for one in plan.colder[:most]:
        asked = "requests not known yet" if one.requests_h is None else f"{one.requests_h:.0f} requests an hour"
        yield f"colder: {one.tenant}/{one.route}, {asked}"
    if plan.total > most:
        yield f"colder: {plan.total - min(most, len(plan.colder))} more"
    now, then = plan.resident
    if now is not None and then is not None:
        yield f"requests that meet a loaded release, by all of the last 14 days: {share(now)} now, {share(then)} then"
    if (more := plan.more) is not None:
        still = f"does not fit on {', '.join(more.short)}" if more.short else "fits"
        met = "" if more.resident[1] is None else f", {share(more.resident[1])} meet a loaded release"
        yield (f"with one more node of {more.slots} slots: {still}; {more.total} colder, {more.warmer} warmer{met}")
