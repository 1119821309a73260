"""Acknowledgements: stakeholders of a route have read how a release's card differs from the live one's."""

from collections.abc import Iterable, Sequence

from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import Acknowledgement


def refusal(
    called: str, stakeholders: Sequence[str], stated: Iterable[Acknowledgement], live: str | None
) -> Refused | None:
    """The refusal of a move forward to a release that not all stakeholders have acknowledged; None: all have.

    What somebody read counts as long as the release is live that it was compared with.

    Args:
        called: the release's name.
        stated: the acknowledgements of the release on the route.
        live: the release that is live there; None: none is.
    """
    read = {one.person for one in stated if one.against == live}
    missing = [who for who in stakeholders if who not in read]
    if not missing:
        return None
    return Refused(
        "not_acknowledged",
        f"not everybody whom this route names has read how {called} differs from what is live",
        detail=", ".join(missing),
        fix="each does: loradeck gate acknowledge TENANT RELEASE; or, on the hub's host, --break-glass REASON",
        context={"missing": missing},
    )
