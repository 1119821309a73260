"""Finds the entries that name a release, and names the releases that lack a slot of an engine."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from loradeck.rules.serving.residency import Claims
from loradeck.schemas.table import Pin, ReleaseRef, RouteResidency, TableEntry


@dataclass(eq=False)
class ReleaseIndex:
    """The entries of one table by the releases that they name. It is built anew when the entries are others."""

    entries: tuple[TableEntry, ...] = ()
    _by_release: dict[str, list[TableEntry]] = field(default_factory=dict)
    _merged: list[ReleaseRef] = field(default_factory=list)

    def of(self, entries: tuple[TableEntry, ...]) -> "ReleaseIndex":
        """Makes the index one of the given entries. Where they are the objects of before, that takes microseconds."""
        if entries != self.entries:
            self.entries, by_release = entries, defaultdict(list)
            for entry in entries:
                for release in {ref.id for ref in entry.refs}:
                    by_release[release].append(entry)
            self._by_release = dict(by_release)
            self._merged = [ref for entry in entries for ref in entry.refs if ref.release.merged is not None]
        return self

    def naming(self, release: str) -> Sequence[TableEntry]:
        """The entries that name a release: as their live one, candidate, under preparation, or beneath."""
        return self._by_release.get(release, ())

    def signers(self, pins: Iterable[Pin], release: str) -> tuple[frozenset[str], ...]:
        """The signers that each pointer takes which names a release, by its entry or a pin, and asks for signatures."""
        naming = self.naming(release)
        if pinned := {(pin.tenant, pin.route) for pin in pins if pin.release.id == release}:
            naming = [*naming, *(entry for entry in self.entries if entry.key in pinned)]
        return tuple({frozenset(key.strip() for key in entry.signers) for entry in naming if entry.signers})

    def merged_on(self, pins: Iterable[Pin], base: str) -> tuple[ReleaseRef, ...]:
        """Merged releases that the entries and pins name, of the weights with this digest."""
        refs = [*self._merged, *(pin.release for pin in pins)]
        return tuple({ref.id: ref for ref in refs if ref.release.merged == base}.values())


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
