"""What releases may share with others: their traits, as the registry, the facts and the log have them."""

from collections.abc import Iterator
from dataclasses import dataclass

from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.facts import Facts
from loradeck.hub.log.incidents import Incidents
from loradeck.hub.log.log import Log
from loradeck.rules.data.related import Member, freezes
from loradeck.rules.errors import Refused
from loradeck.rules.moves.incidents import suspect_of
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import Incident, Suspect
from loradeck.schemas.log import PointerState
from loradeck.schemas.related import Shared


@dataclass(eq=False)
class Relatives:
    """Traits of releases, and the promotes that open incidents hold up."""

    _log: Log
    _catalogue: Catalogue
    _facts: Facts
    _incidents: Incidents

    def member(self, tenant: str, brought: Suspect) -> Member | None:
        """The traits of a release of a tenant; None: it is not registered here."""
        catalogue = self._catalogue
        release = catalogue.release(brought.release, tenant)
        if release is None:
            return None
        left = catalogue.releases.get(brought.left) if brought.left is not None else None
        version = catalogue.version_of(release)
        return Member(
            datasets=frozenset(version.manifest.datasets) if version else frozenset(),
            recipe=version.manifest.config_hash if version else None,
            base=release.base,
            left_base=left.base if left else None,
            signers=frozenset(self._facts.signed.get(release.signed_part, ())),
            brought=brought,
        )

    def live(self, pointer: PointerState) -> Member | None:
        """The traits of a pointer's live release; None: nothing is served there, or it is not registered here."""
        if pointer.release is None:
            return None
        return self.member(pointer.tenant, suspect_of(pointer.release, self._log.last_move(pointer)))

    def check_promote(self, key: PointerKey, release: str, by: str, now_ms: int) -> Refused | None:
        """The refusal of a promote of a release that is related to what an open incident is about; None: it is not."""
        pointer, config = self._log.state.pointer(key), self._log.state.config(key)
        one = self.member(key[0], Suspect(release=release, left=pointer.release, by=by, promoted=True, at_ms=now_ms))
        found = freezes(key, config.guard, one, self._about()) if one is not None else None
        if found is None:
            return None
        incident, what = found
        return Refused(
            "related_incident",
            f"{self._catalogue.called(release)} is related to a release that {incident.id} is about",
            detail=f"they share {_WORDS[what]}",
            fix=f"wait until it is closed (loradeck incident show {incident.id}), or override with a reason",
            context={"incident": incident.id, "shares": what.value},
        )

    def _about(self) -> Iterator[tuple[Incident, Member]]:
        for incident in self._incidents.all():
            first = incident.pointers[0]
            if incident.closed_ms is None and first.suspect is not None:
                member = self.member(first.tenant, first.suspect)
                if member is not None:
                    yield incident, member


_WORDS = {
    Shared.RELEASE: "all: it is the same one",
    Shared.DATASET: "a dataset",
    Shared.RUN: "a recipe",
    Shared.BASE_MOVE: "a move between two bases",
    Shared.BATCH: "a batch of promotes",
}
