"""The request that a preview stands for: what R sends, whoever presses it."""

from loradeck.rules.errors import Refused
from loradeck.schemas.moves import RollbackRequest
from loradeck.schemas.state import Preview, PreviewAction


def rollback_request(
    preview: Preview,
    *,
    key: str,
    confirmed: bool | None = None,
    reason: str = "",
    incident: str | None = None,
    ticket: str | None = None,
) -> RollbackRequest:
    """Builds R from a row's preview: to its target, or against its pending prepare, at its generation.

    Args:
        key: the idempotency key, made before the first attempt and kept for every further one.
        confirmed: whether a person answered a question with yes; None confirms exactly what the preview asks.

    Raises: Refused: no_prior: R goes to no release and cancels nothing; the title is the preview's own reason.
    """
    cancels = preview.prepare if preview.action is PreviewAction.CANCEL_PREPARE else None
    target = preview.target if preview.action is PreviewAction.ROLLBACK else None
    if cancels is None and target is None:
        fallback = preview.action is PreviewAction.FALLBACK
        raise Refused(
            "no_prior",
            preview.refused or "there is no release to go back to",
            fix="fall back to the base alone" if fallback else "promote a fit release",
        )
    return RollbackRequest(
        expected_generation=preview.generation,
        to=target.id if target else None,
        cancels=cancels,
        confirmed=preview.asks is not None if confirmed is None else confirmed,
        idempotency_key=key,
        reason=reason,
        incident=incident,
        ticket=ticket,
    )
