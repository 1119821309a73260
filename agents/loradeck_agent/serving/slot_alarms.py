"""Lines about releases that have no slot of an engine, although a route is answered by them or R goes to them."""

from collections.abc import Iterable, Sequence

from loradeck.rules.serving.residency import Claims
from loradeck.schemas.table import ReleaseRef, RouteResidency, TableEntry


def without_slot(entries: Iterable[TableEntry], short: Sequence[ReleaseRef], claims: Claims) -> tuple[str, ...]:
    """Names each served release, candidate or next way back that has no slot, with the route that names it.

    `short`: releases for which an engine has none. Of on-demand routes only candidates count: the others come and go.
    """
    must = claims.always | {ref.id for ref in claims.coming}
    without = {ref.id for ref in short if ref.id in must}
    lines = list[str]()
    for entry in entries if without else ():
        ways = [("the candidate of", entry.candidate.release if entry.candidate is not None else None)]
        if entry.residency is RouteResidency.ALWAYS:
            prior = next(iter(entry.beneath), None)
            ways += [("the current release of", entry.current), ("where R goes for", prior)]
        for what, ref in ways:
            if ref is not None and ref.id in without:
                name = f"{ref.release.tenant} {ref.label or ref.id[:6]}"
                lines.append(f"no slot for {name}, {what} {entry.tenant}/{entry.route}")
    return tuple(lines)
