"""Lineage at the hub: what jobs made bases from, whose these are, and everything that descends from rows."""

from collections.abc import Collection
from dataclasses import dataclass

from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.rules.data import lineage
from loradeck.rules.data.lineage import Descent, descent
from loradeck.schemas.attestation import AttestationKind, BaseLineage
from loradeck.schemas.manifest import Release


@dataclass(eq=False)
class Lineage:
    """Records the lineage of bases, and answers what it means for tenants and for erased rows."""

    _catalogue: Catalogue
    _attestations: Attestations

    async def record(self, base: str, made: BaseLineage) -> None:
        """Attests what a job made a base from. The same lineage once more changes nothing.

        Raises:
            Refused: `wrong_tenant`: the base is another tenant's, or others use it; a node named what it did not make.
        """
        self.check_claim(made.tenant, base)
        known = self._attestations.facts.made.get(base, ())
        if any(made == one.model_copy(update={"job": made.job}) for one in known):
            return
        await self._attestations.state(AttestationKind.LINEAGE, base, made.tenant, made, f"job {made.job}")

    def check_use(self, tenant: str, base: str) -> None:
        """Checks that a tenant may serve a base or train on it. Raises: Refused: `wrong_tenant`."""
        lineage.check_use(tenant, base, owned_by=self.owners(base), name=self._catalogue.base_label(base))

    def check_claim(self, tenant: str, base: str) -> None:
        """Checks that a base may become a tenant's own. Raises: Refused: `wrong_tenant`."""
        lineage.check_claim(
            tenant,
            base,
            owned_by=self.makers(base),
            releases=self._catalogue.releases.values(),
            name=self._catalogue.base_label(base),
        )

    def owners(self, base: str) -> frozenset[str]:
        """Finds the tenants to whom a base belongs; none where it is for all."""
        return frozenset() if base in self._attestations.facts.shared else self.makers(base)

    def makers(self, base: str) -> frozenset[str]:
        """Finds the tenants that a base came from, also where it is shared; none where it came from nobody here."""
        made, catalogue = self._attestations.facts.made, self._catalogue
        registered_for = catalogue.base_tenants.get(base)
        return lineage.owners(base, made=made, releases=catalogue.releases.values(), registered_for=registered_for)

    def releases(self) -> dict[str, Release]:
        """The registered releases, and base alone on every base that a job made, for those whose job it was."""
        made, catalogue = self._attestations.facts.made, self._catalogue
        alone = {
            catalogue.base_alone_id(one.tenant, base): Release.of_base(one.tenant, base)
            for base, origins in made.items()
            if base in catalogue.bases
            for one in origins
        }
        return {**alone, **catalogue.releases}

    def descent(self, datasets: Collection[str]) -> Descent:
        """Finds all that descends from some datasets."""
        return descent(
            datasets,
            adapters=self._catalogue.adapters.values(),
            releases=self.releases(),
            ledger=self._attestations.facts.ledger,
            made=self._attestations.facts.made,
            judged=self._attestations.facts.judged,
        )
