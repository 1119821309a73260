"""Related releases: live ones of other pointers that share something with a pointer's release."""

from collections.abc import Callable
from dataclasses import dataclass

from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.incidents import Incidents, Relatives
from loradeck.hub.log.log import Log
from loradeck.hub.views.rows import Rows
from loradeck.rules.data import related
from loradeck.rules.data.related import Member
from loradeck.schemas.ids import PointerKey, short
from loradeck.schemas.incident import Suspect
from loradeck.schemas.related import RelatedRelease, RelatedReleases, Shared, Tie

MOST = 200
"""Related releases that are listed."""

_RANK = {what: rank for rank, what in enumerate(Shared)}


@dataclass(eq=False)
class RelatedIndex:
    """Finds related releases when somebody looks for the cause of bad answers."""

    _log: Log
    _catalogue: Catalogue
    _rows: Rows
    _incidents: Incidents
    _relatives: Relatives

    def of(self, tenant: str, route: str, sees: Callable[[str], bool]) -> RelatedReleases:
        """The releases that are related to a pointer's live one, or to that which an open incident on it is about, the
        closest first: those of tenants that one sees.

        Raises: Refused `unknown_tenant`, `unknown_route`.
        """
        self._log.state.route(tenant, route)
        pointer = self._log.state.pointers.get((tenant, route))
        incident = self._incidents.open_on((tenant, route))
        at = incident.at((tenant, route)) if incident is not None else None
        about = at.suspect if at is not None else None
        one = None
        if pointer is not None:
            one = self._relatives.member(tenant, about) if about is not None else self._relatives.live(pointer)
        if pointer is None or one is None:
            return RelatedReleases(tenant=tenant, route=route, generation=pointer.generation if pointer else 0)
        found = self._found(pointer.key, one, sees)
        listed = []
        for _, key, ties in found[:MOST]:
            row = self._rows.tenant(key)
            if row.live is not None:
                named = tuple(Tie(what=what, name=self._named(what, name)) for what, name in ties)
                listed.append(
                    RelatedRelease(
                        tenant=key[0],
                        route=key[1],
                        live=row.live,
                        ties=named,
                        flags=row.flags,
                        bad_now=row.bad_now,
                        bad_n=row.bad_n,
                    )
                )
        return RelatedReleases(
            tenant=tenant,
            route=route,
            generation=pointer.generation,
            total=len(found),
            incident=incident.id if incident is not None and about is not None else None,
            about=self._catalogue.view(about.release, tenant).label if about is not None else None,
            companions=tuple(listed),
        )

    def keys(self, key: PointerKey, about: Suspect | None, sees: Callable[[str], bool]) -> list[PointerKey]:
        """The pointers whose live release is related to one of a pointer, of tenants that one sees."""
        one = self._relatives.member(key[0], about) if about is not None else None
        return [other for _, other, _ in self._found(key, one, sees)] if one is not None else []

    def _found(
        self, key: PointerKey, one: Member, sees: Callable[[str], bool]
    ) -> list[tuple[int, PointerKey, list[tuple[Shared, str]]]]:
        """(rank, pointer, what it shares) of the others, the closest first."""
        found = []
        for other, pointer in self._log.state.pointers.items():
            member = self._relatives.live(pointer) if other != key and sees(other[0]) else None
            ties = related.shared(one, member) if member is not None else []
            if ties:
                found.append((min(_RANK[what] for what, _ in ties), other, ties))
        return sorted(found)

    def _named(self, what: Shared, name: str) -> str:
        """The shared trait as people name it."""
        if what is Shared.DATASET:
            dataset = self._catalogue.datasets.get(name)
            return f"{dataset.tenant}/{dataset.name}" if dataset else short(name)
        if what is Shared.RELEASE:
            return self._catalogue.view(name).label
        if what is Shared.BASE_MOVE:
            return " > ".join(self._catalogue.base_label(base) for base in name.split())
        return short(name) if what in (Shared.RUN, Shared.SIGNER) else name
