"""Related releases: live ones of other pointers that share a dataset, a recipe or a move with a pointer's release."""

from collections.abc import Callable
from dataclasses import dataclass

from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.log import Log
from loradeck.hub.views.rows import Rows
from loradeck.rules.data import related
from loradeck.rules.data.related import Member
from loradeck.schemas.ids import short
from loradeck.schemas.log import PointerState
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

    def of(self, tenant: str, route: str, sees: Callable[[str], bool]) -> RelatedReleases:
        """The releases that are related to a pointer's live one, the closest first: those of tenants that one sees.

        Raises: Refused `unknown_tenant`, `unknown_route`.
        """
        self._log.state.route(tenant, route)
        pointer = self._log.state.pointers.get((tenant, route))
        one = self._member(pointer) if pointer is not None else None
        if pointer is None or one is None:
            return RelatedReleases(tenant=tenant, route=route, generation=pointer.generation if pointer else 0)
        found = []
        for key, other in self._log.state.pointers.items():
            member = self._member(other) if key != pointer.key and sees(key[0]) else None
            ties = related.shared(one, member) if member is not None else []
            if ties:
                found.append((min(_RANK[what] for what, _ in ties), key, ties))
        found.sort()
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
            tenant=tenant, route=route, generation=pointer.generation, total=len(found), companions=tuple(listed)
        )

    def _member(self, pointer: PointerState) -> Member | None:
        """The traits of a pointer's live release; None: nothing is served there, or it is not registered here."""
        catalogue = self._catalogue
        live = catalogue.release(pointer.release, pointer.tenant) if pointer.release else None
        if live is None:
            return None
        move = self._log.last_move(pointer)
        left = catalogue.releases.get(move.from_release) if move is not None and move.from_release else None
        version = catalogue.version_of(live)
        return Member(
            datasets=frozenset(version.manifest.datasets) if version else frozenset(),
            recipe=version.manifest.config_hash if version else None,
            base=live.base,
            left_base=left.base if left else None,
            move=move,
        )

    def _named(self, what: Shared, name: str) -> str:
        """The shared trait as people name it."""
        if what is Shared.DATASET:
            dataset = self._catalogue.datasets.get(name)
            return f"{dataset.tenant}/{dataset.name}" if dataset else short(name)
        if what is Shared.BASE_MOVE:
            return " > ".join(self._catalogue.base_label(base) for base in name.split())
        return short(name) if what is Shared.RUN else name
