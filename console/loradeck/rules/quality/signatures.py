"""Signatures on routes: a route with signers serves only releases that one of them has signed, and the base alone."""

from __future__ import annotations

from collections.abc import Collection

from loradeck.rules.errors import Refused
from loradeck.schemas.release import Form, Release


def check_signed(release: Release, signers: Collection[str], signed_by: Collection[str], called: str) -> None:
    """Checks that a release may be served on a route with these signers (public keys). No signers allow everything.

    Args:
        signed_by: public keys whose signatures of the release's adapter, or merged weights, were verified.
        called: the release's name in messages.

    Raises:
        Refused: `unsigned`.
    """
    if not signers or release.form is Form.BASE:
        return
    if not {key.strip() for key in signers} & {key.strip() for key in signed_by}:
        raise Refused(
            "unsigned",
            f"{called} carries no signature of a signer of this route",
            detail=f"{len(signers)} signers, {len(signed_by)} signatures by others" if signed_by else "not signed",
            fix="loradeck release sign TENANT RELEASE --key FILE"
            if release.form is Form.MERGED
            else "loradeck adapter sign TENANT NAME VERSION --key FILE",
        )
