"""What callers ask is used for what their tenant has stated a purpose for, and where."""

from __future__ import annotations

import pytest

from loradeck.rules.data import policy
from loradeck.rules.errors import Refused
from loradeck.schemas.dataset_ledger import DataPolicy, Use, UseTerms
from loradeck.schemas.tenant import TenantState

TENANT = TenantState(name="acme")


def allowing(region: str = "") -> TenantState:
    told = DataPolicy(uses={Use.JUDGE: UseTerms(purpose="quality of answers", region=region)})
    return TENANT.model_copy(update={"data": told})


@pytest.mark.parametrize("use", [Use.SHADOW, Use.LABELLING, Use.JUDGE])
def test_no_use_is_allowed_unless_it_has_a_purpose(use: Use) -> None:
    with pytest.raises(Refused) as refused:
        policy.check_use(TENANT, use, {"region": "eu"})
    assert (refused.value.code, use.value in refused.value.fix) == ("use_not_allowed", True)


def test_another_use_than_the_stated_one_is_not_allowed() -> None:
    policy.check_use(allowing(), Use.JUDGE, {})
    with pytest.raises(Refused, match="use_not_allowed"):
        policy.check_use(allowing(), Use.SHADOW, {})


@pytest.mark.parametrize("placed", [{}, {"region": "us"}, {"zone": "eu"}])
def test_a_region_has_to_be_one_that_every_node_of_the_route_carries(placed: dict[str, str]) -> None:
    policy.check_use(allowing("eu"), Use.JUDGE, {"region": "eu", "zone": "a"})
    with pytest.raises(Refused, match="wrong_region"):
        policy.check_use(allowing("eu"), Use.JUDGE, placed)
