"""What a route that asks for signatures serves: adapters that one of its signers has signed, and the base alone."""

from __future__ import annotations

from collections.abc import Collection

from loradeck.rules.errors import Refused
from loradeck.schemas.release import Form, Release


def check_signed(release: Release, signers: Collection[str], signed_by: Collection[str], called: str) -> None:
    """Whether a release may be served where these are the signers (public keys; none asks for no signature).

    Args:
        signed_by: public keys whose signatures of the release's adapter were verified.

    Raises:
        Refused: `unsigned`.
    """
    if not signers or release.form is Form.BASE:
        return
    if release.form is Form.MERGED:
        raise Refused(
            "unsigned",
            f"the route asks for signatures, and the merged weights of {called} carry none",
            fix="serve the adapter itself, or take the signers off the route",
        )
    if not {key.strip() for key in signers} & {key.strip() for key in signed_by}:
        raise Refused(
            "unsigned",
            f"{called} carries no signature of a signer of this route",
            detail=f"{len(signers)} signers, {len(signed_by)} signatures by others" if signed_by else "not signed",
            fix="loradeck adapter sign TENANT NAME VERSION --key FILE",
        )
