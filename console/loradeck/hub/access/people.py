"""People at a hub: the provider where they sign in, and their sign-ins, as the store has kept them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from loradeck.hub.access.sign_ins import SignIns
from loradeck.schemas.sign_in import OidcSettings, SavedSignIns

if TYPE_CHECKING:
    from loradeck.hub.access.provider import Provider

SIGN_INS = "sign_ins"
"""The store's setting that holds the sign-ins."""


def people(
    oidc: OidcSettings | None, saved: str | None, now_ms: Callable[[], int]
) -> tuple[Provider | None, SignIns | None]:
    """The provider and the sign-ins of these settings; (None, None) where nobody signs in.

    Args:
        saved: what the store has under `SIGN_INS`.
        now_ms: the wall clock, in milliseconds since 1970 UTC.
    """
    if oidc is None:
        return None, None
    from loradeck.hub.access.provider import Provider  # joserfc and cryptography, 10 MB

    provider = Provider(oidc, now_ms)
    return provider, SignIns(oidc, provider.verify, now_ms, SavedSignIns.model_validate_json(saved or "{}"))
