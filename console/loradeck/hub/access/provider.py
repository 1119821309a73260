"""The provider where people sign in: its keys, fetched again and again, and the checks of its tokens.

OpenID Connect Core 1.0, sections 2 and 3.1.3.7; Discovery 1.0, section 4. A token is judged with the keys that are
here: no call waits for the provider.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry
from joserfc.jws import CompactSignature

from loradeck.hub.access.auth import unauthenticated
from loradeck.hub.access.sign_ins import Identity
from loradeck.schemas.address import is_loopback, is_safe_url
from loradeck.schemas.sign_in import OidcSettings

log = logging.getLogger("loradeck.hub.provider")

LOOK_S = 15.0
"""Seconds between two questions to the provider."""

SPACING_S = 5.0
"""Seconds between two at least, also when somebody shows a token of a key that is not known yet."""

ANSWER_S = 5.0
"""Seconds that the provider has for an answer."""

LEEWAY_S = 30
"""How far the clocks of hub and provider may be apart."""

LONGEST_LIFE_S = 86_400
"""A token is believed for a day at most, whatever it says."""

LONGEST_ANSWER = 1 << 20
_KINDS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC"}


class Provider:
    """One provider. `now_ms` is the wall clock, in milliseconds since 1970 UTC."""

    def __init__(self, settings: OidcSettings, now_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._now_ms = now_ms
        self._keys: dict[str | None, Any] = {}
        self._wanted = asyncio.Event()
        audience = settings.audience or settings.client_id
        self._claims = jwt.JWTClaimsRegistry(
            lambda: now_ms() // 1000,
            LEEWAY_S,
            iss={"essential": True, "value": settings.issuer},
            aud={"essential": True, "value": audience},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )

    def verify(self, token: str) -> Identity:
        """Verifies a token, and returns who it says somebody is.

        Raises: Refused `unauthenticated`: it is not of this provider, not for this hub, not valid now, or no ID token.
        """
        settings = self._settings
        try:
            decoded = jwt.decode(token, self._key, algorithms=[settings.algorithm])
            claims = decoded.claims
            self._claims.validate(claims)
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            raise unauthenticated() from None
        subject, issued, expires = claims["sub"], claims["iat"], claims["exp"]
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        is_id_token = str(decoded.header.get("typ", "JWT")).upper() == "JWT" and "events" not in claims
        asked_here = claims.get("azp") == settings.client_id or not (several or "azp" in claims)
        if not (is_id_token and asked_here and len(subject) <= 255 and subject.isprintable()):
            raise unauthenticated()
        groups = claims.get(settings.groups_claim)
        name = claims.get(settings.name_claim)
        return Identity(
            subject=subject,
            name=name if isinstance(name, str) else "",
            groups=tuple(g for g in groups if isinstance(g, str)) if isinstance(groups, list) else (),
            issued_ms=int(issued * 1000),
            expires_ms=int(min(expires, issued + LONGEST_LIFE_S) * 1000) + LEEWAY_S * 1000,
        )

    def _key(self, signature: CompactSignature) -> Any:
        """The key that a token names. One that is not known is asked for, and refused meanwhile."""
        name = signature.headers().get("kid")
        key = self._keys.get(name)
        if key is None:
            self._wanted.set()
            raise KeyError(name)
        return key

    async def run(self, asked: Callable[[bool, str], None]) -> None:
        """Fetches the keys until cancelled. `asked` is told of each time whether they came, and if not, why."""
        settings = self._settings
        async with httpx.AsyncClient(
            timeout=ANSWER_S,
            verify=ssl.create_default_context() if settings.issuer.startswith("https:") else False,
            trust_env=not is_loopback(httpx.URL(settings.issuer).host),
        ) as http:
            while True:
                self._wanted.clear()
                try:
                    async with asyncio.timeout(2 * ANSWER_S):
                        self._keys = await self._fetch(http)
                except (httpx.HTTPError, TimeoutError, ValueError, JoseError) as error:
                    asked(False, str(error) or type(error).__name__)
                else:
                    asked(True, "")
                await asyncio.sleep(SPACING_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S - SPACING_S):
                        await self._wanted.wait()

    async def _fetch(self, http: httpx.AsyncClient) -> dict[str | None, Any]:
        """The provider's keys by their ids. Raises: ValueError for answers that are none of this provider."""
        settings = self._settings
        about = await _json(http, f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration")
        if about.get("issuer") != settings.issuer:
            raise ValueError(f"the provider calls itself {str(about.get('issuer'))[:200]!r}")
        where = about.get("jwks_uri")
        if not isinstance(where, str) or not is_safe_url(where):
            raise ValueError("the provider's keys are not at an https:// address")
        answer = await _json(http, where)
        if not isinstance(answer.get("keys"), list):
            raise ValueError("the provider's keys are no JSON Web Key Set")
        kind = _KINDS[settings.algorithm]
        keys: dict[str | None, Any] = {}
        for key in answer["keys"]:
            fits = isinstance(key, dict) and key.get("kty") == kind and key.get("use", "sig") == "sig"
            if fits and key.get("alg", settings.algorithm) == settings.algorithm:
                try:
                    keys[str(key.get("kid", ""))] = JWKRegistry.import_key(key)
                except (JoseError, ValueError, TypeError) as error:
                    log.warning("a key of the provider cannot be used and is left out: %s", error)
        if not keys:
            raise ValueError(f"the provider has no key for {settings.algorithm}")
        if len(keys) == 1:
            keys[None] = next(iter(keys.values()))  # of tokens that name none
        return keys


async def _json(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """A JSON object from the provider, no longer than `LONGEST_ANSWER`. Raises: httpx.HTTPError, ValueError."""
    got = bytearray()
    async with http.stream("GET", url, headers={"accept": "application/json"}) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{url} answered {answer.status_code}")
        async for piece in answer.aiter_bytes():
            got += piece
            if len(got) > LONGEST_ANSWER:
                raise ValueError(f"{url} answered more than {LONGEST_ANSWER} bytes")
    found = json.loads(got)
    if not isinstance(found, dict):
        raise ValueError(f"{url} answered no JSON object")
    return found
