"""Personal data in reasons: not looked at, said, or refused; and R is made whatever its reason says."""

from __future__ import annotations

import pytest

from loradeck.hub.log.reasons import kept
from loradeck.rules.errors import Refused
from loradeck.rules.moves import campaigns
from loradeck.rules.moves.draft import Actor
from loradeck.schemas.campaign import Campaign, CampaignPlan, CampaignState, CampaignUnit
from loradeck.schemas.dataset_ledger import DataPolicy, Reasons
from loradeck.schemas.ids import Role
from loradeck.schemas.log import FLEET, Draft, EventKind
from loradeck.schemas.tenant import TenantState

WHY = "ann@example.org complained"


def tenants(**policies: Reasons) -> dict[str, TenantState]:
    return {name: TenantState(name=name, data=DataPolicy(reasons=policy)) for name, policy in policies.items()}


def logged(policy: Reasons, kind: EventKind, reason: str = WHY) -> Draft:
    draft = Draft(kind=kind, tenant="acme", route="production", actor="ann", role=Role.RELEASER, reason=reason)
    return kept([draft], tenants(acme=policy))[0]


def test_without_a_policy_reasons_are_kept_as_they_are() -> None:
    draft = logged(Reasons.KEEP, EventKind.PROMOTE)
    assert (draft.reason, draft.payload) == (WHY, {})


def test_a_warning_says_what_kinds_the_reason_has() -> None:
    draft = logged(Reasons.WARN, EventKind.PROMOTE)
    assert (draft.reason, draft.payload) == (WHY, {"personal": ["e-mail"]})


@pytest.mark.parametrize("kind", [EventKind.PROMOTE, EventKind.ROUTE, EventKind.LIFT, EventKind.ANNOTATE])
def test_where_they_are_refused_nothing_is_done(kind: EventKind) -> None:
    with pytest.raises(Refused, match="personal_data"):
        logged(Reasons.REFUSE, kind)
    assert logged(Reasons.REFUSE, kind, "more refusals").reason == "more refusals"


@pytest.mark.parametrize(
    "kind", [EventKind.ROLLBACK, EventKind.FALLBACK, EventKind.UNDO, EventKind.REWIND, EventKind.HOLD]
)
def test_what_goes_back_is_done_and_its_reason_kept_without(kind: EventKind) -> None:
    draft = logged(Reasons.REFUSE, kind)
    assert (draft.reason, draft.payload) == ("[e-mail] complained", {"personal": ["e-mail"]})


ANN = Actor(name="ann", role=Role.RELEASER)
UNIT = CampaignUnit(tenant="acme", route="production")
CAMPAIGN = Campaign(campaign="b2", plan=CampaignPlan(), by="ann", started_ms=0, units={UNIT.name: UNIT})


def of_the_fleet(draft: Draft, **policies: Reasons) -> Draft:
    assert draft.tenant == FLEET
    return kept([draft], tenants(**policies))[0]


def test_an_event_of_the_fleet_has_the_strictest_policy_of_all_tenants() -> None:
    begun = campaigns.begun(CAMPAIGN, ANN, WHY)
    assert of_the_fleet(begun).reason == WHY
    assert of_the_fleet(begun, acme=Reasons.KEEP, bolt=Reasons.WARN).payload["personal"] == ["e-mail"]
    with pytest.raises(Refused, match="personal_data"):
        of_the_fleet(begun, acme=Reasons.REFUSE, bolt=Reasons.KEEP)
    node = Draft(kind=EventKind.NODE_FORGET, tenant=FLEET, actor="ann", role=Role.RELEASER, reason=WHY)
    with pytest.raises(Refused, match="personal_data"):
        of_the_fleet(node, acme=Reasons.REFUSE)


@pytest.mark.parametrize("state", [CampaignState.PAUSED, CampaignState.STOPPED, CampaignState.REWOUND])
def test_what_ends_a_campaign_is_done_and_its_reason_kept_without(state: CampaignState) -> None:
    ended = of_the_fleet(campaigns.state_event(CAMPAIGN, state, ANN, WHY), acme=Reasons.REFUSE)
    assert (ended.reason, ended.payload["personal"]) == ("[e-mail] complained", ["e-mail"])
    paused = CAMPAIGN.model_copy(update={"state": CampaignState.PAUSED})
    with pytest.raises(Refused, match="personal_data"):
        of_the_fleet(campaigns.state_event(paused, CampaignState.RUNNING, ANN, WHY), acme=Reasons.REFUSE)


def test_what_is_committed_with_a_way_back_is_not_refused_either_nor_what_a_recover_appends() -> None:
    back = Draft(kind=EventKind.REWIND, tenant="bolt", actor="ann", role=Role.RELEASER, reason=WHY)
    key = Draft(kind=EventKind.KEY, tenant="acme", actor="ann", role=Role.RELEASER, reason=WHY)
    of = tenants(acme=Reasons.REFUSE, bolt=Reasons.KEEP)
    assert [draft.reason for draft in kept([back, key], of)] == [WHY, "[e-mail] complained"]
    assert kept([key], of, refuse=False)[0].reason == "[e-mail] complained"
