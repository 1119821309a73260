"""Personal data in reasons, which the log keeps for ever: said, or refused, as the tenant's policy has it.

An event of the fleet, as of a campaign, is read by people of all tenants: the strictest of their policies is its own.
What goes back in an incident is never refused, nor what the hub or a node's host has done already, nor what is
committed with either: what has the form of personal data in their reasons is replaced.
"""

from collections.abc import Mapping, Sequence

from loradeck.artifacts.rows.personal_data import personal, redacted
from loradeck.rules.errors import Refused
from loradeck.rules.moves.witness import BACKWARD
from loradeck.schemas.campaign import CampaignState
from loradeck.schemas.dataset_ledger import Reasons
from loradeck.schemas.log import AUTOMATION, FLEET, PERSONAL, Draft, EventKind
from loradeck.schemas.tenant import TenantState

NEVER_REFUSED = BACKWARD | {EventKind.UNDO, EventKind.TENANT_SUSPEND, EventKind.PIN, EventKind.RECOVER}

ENDS = (CampaignState.PAUSED.value, CampaignState.STOPPED.value, CampaignState.REWOUND.value)
"""States that a person gives a campaign to move less."""


def kept(drafts: Sequence[Draft], tenants: Mapping[str, TenantState], *, refuse: bool = True) -> Sequence[Draft]:
    """The drafts of one transaction with the reasons that the log may keep.

    Raises: Refused: personal_data, only with `refuse`: nothing was changed.
    """
    refuse = refuse and not any(draft.kind in NEVER_REFUSED or _ends_a_campaign(draft) for draft in drafts)
    return [_kept(draft, _policy(draft.tenant, tenants), refuse) if draft.reason else draft for draft in drafts]


def _ends_a_campaign(draft: Draft) -> bool:
    return draft.kind is EventKind.CAMPAIGN and draft.payload.get("state") in ENDS


def _policy(tenant: str, tenants: Mapping[str, TenantState]) -> Reasons:
    if tenant == FLEET:
        policies = {one.data.reasons for one in tenants.values()}
        return max(policies, key=list(Reasons).index, default=Reasons.KEEP)
    return tenants[tenant].data.reasons if tenant in tenants else Reasons.KEEP


def _kept(draft: Draft, policy: Reasons, refuse: bool) -> Draft:
    found = sorted(personal(draft.reason)) if policy is not Reasons.KEEP else []
    if not found:
        return draft
    if policy is Reasons.REFUSE and refuse and not draft.payload.get(AUTOMATION):
        raise Refused(
            "personal_data",
            f"the reason has what looks like personal data: {', '.join(found)}",
            fix="say it without; the log keeps reasons for ever",
        )
    reason = redacted(draft.reason)[:500] if policy is Reasons.REFUSE else draft.reason
    return draft.model_copy(update={"reason": reason, "payload": {**draft.payload, PERSONAL: found}})
