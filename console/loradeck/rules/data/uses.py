"""Uses of what callers ask, beyond answering them: each is off until its tenant has a purpose for it, and a region."""

from collections.abc import Mapping

from loradeck.rules.errors import Refused
from loradeck.schemas.dataset_ledger import Use, UseTerms
from loradeck.schemas.tenant import TenantState

REGION = "region"
"""The label of nodes that says where they are."""


def terms(tenant: TenantState, use: Use) -> UseTerms:
    """The purpose and region of a use. Raises: Refused: use_not_allowed."""
    found = tenant.data.uses.get(use)
    if found is None:
        raise Refused(
            "use_not_allowed",
            f"{tenant.name} has stated no purpose for {use.value}",
            fix=f"loradeck tenant data {tenant.name} --use {use.value}=PURPOSE[@REGION] --reason WHY",
        )
    return found


def check(tenant: TenantState, use: Use, placed: Mapping[str, str]) -> None:
    """Checks that a use on the nodes with these labels is one that its tenant has allowed.

    `placed`: the labels that every node of the route or of its pool carries.

    Raises: Refused: use_not_allowed, wrong_region.
    """
    region = terms(tenant, use).region
    if region and placed.get(REGION) != region:
        raise Refused(
            "wrong_region",
            f"{tenant.name} allows {use.value} in {region} alone, and the route may be served elsewhere",
            detail=f"its nodes' label {REGION}: {placed.get(REGION, 'any')}",
            fix=f"place the route on nodes with {REGION}={region}, or allow another region",
        )
