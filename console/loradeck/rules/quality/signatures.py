"""Signatures on routes: to a route with signers only releases are promoted that one of them has signed.

F still goes to the base of the live release, and the ways back stay: they are left for what is worse.
"""

from collections.abc import Collection

from loradeck.rules.errors import Refused
from loradeck.schemas.manifest import Form, Release


def check_signed(release: Release, signers: Collection[str], signed_by: Collection[str], called: str) -> None:
    """Checks that a release may be served on a route with these signers (public keys). No signers allow everything.

    Args:
        signed_by: public keys whose signatures of the release's adapter, or of its weights without one, were verified.
        called: the release's name in messages.

    Raises: Refused: `unsigned`.
    """
    if not signers:
        return
    if not {key.strip() for key in signers} & {key.strip() for key in signed_by}:
        raise Refused(
            "unsigned",
            f"{called} carries no signature of a signer of this route",
            detail=f"{len(signers)} signers, {len(signed_by)} signatures by others" if signed_by else "not signed",
            fix="loradeck adapter sign TENANT NAME VERSION --key FILE"
            if release.form is Form.ADAPTER
            else "loradeck release sign TENANT RELEASE --key FILE",
        )
