"""Personal data in reasons, which the log keeps for ever: said, or refused, as the tenant's policy has it.

What goes back in an incident is never refused, nor what the hub or a node's host has done already: what has the form of
personal data in their reasons is replaced.
"""

from collections.abc import Callable, Sequence

from loradeck.artifacts.rows.personal_data import personal, redacted
from loradeck.rules.errors import Refused
from loradeck.rules.moves.witness import BACKWARD
from loradeck.schemas.dataset_ledger import DataPolicy, Reasons
from loradeck.schemas.log import AUTOMATION, PERSONAL, Draft, EventKind

NEVER_REFUSED = BACKWARD | {EventKind.UNDO, EventKind.TENANT_SUSPEND, EventKind.PIN}


def kept(drafts: Sequence[Draft], policy_of: Callable[[str], DataPolicy]) -> Sequence[Draft]:
    """The drafts with the reasons that the log may keep.

    Raises: Refused: personal_data: nothing was changed.
    """
    return [_kept(draft, policy_of(draft.tenant).reasons) if draft.reason else draft for draft in drafts]


def _kept(draft: Draft, policy: Reasons) -> Draft:
    found = sorted(personal(draft.reason)) if policy is not Reasons.KEEP else []
    if not found:
        return draft
    if policy is Reasons.REFUSE and draft.kind not in NEVER_REFUSED and not draft.payload.get(AUTOMATION):
        raise Refused(
            "personal_data",
            f"the reason has what looks like personal data: {', '.join(found)}",
            fix="say it without; the log keeps reasons for ever",
        )
    reason = redacted(draft.reason)[:500] if policy is Reasons.REFUSE else draft.reason
    return draft.model_copy(update={"reason": reason, "payload": {**draft.payload, PERSONAL: found}})
