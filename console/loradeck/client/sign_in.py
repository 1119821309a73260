"""A person's sign-in at a provider (OpenID Connect): the device flow, the tokens on this machine, and their refresh.

Device authorization as in RFC 8628, refresh as in RFC 6749, section 6. The hub judges tokens; this end only keeps them.
They lie in `$XDG_STATE_HOME/loradeck/sign-ins`, 0600, in a file for each hub and provider, and go to no other hub.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from loradeck.client.config import Context, state_path
from loradeck.client.errors import ClientError, ConfigError
from loradeck.schemas.address import is_loopback, is_safe_url
from loradeck.schemas.ids import Wire

if TYPE_CHECKING:
    import httpx

EARLY_S = 300.0
"""A token is refreshed so long before it expires, while calls go on with it."""

WAIT_S = 3.0
"""How long a call waits for the refresh of an expired token, before it goes on with that one."""

AGAIN_S = 30.0
"""How long nobody asks a provider again that did not answer."""

ANSWER_S = 10.0
"""How long a provider has for an answer."""


class SignedIn(Wire):
    """The tokens of one sign-in."""

    id_token: str
    refresh_token: str = ""
    expires_s: float
    token_endpoint: str
    revocation_endpoint: str = ""


class ProviderSilent(ClientError):
    """The provider cannot be reached, or does not answer as one."""

    CODE = "provider_silent"


class ProviderRefused(ClientError):
    """The provider has answered, and said no."""

    CODE = "sign_in_refused"


class SignInFile:
    """The file of a context's sign-in."""

    def __init__(self, context: Context) -> None:
        assert context.issuer is not None
        self.context = context
        named = "\n".join((context.where, context.issuer, context.client_id))
        self.path = state_path() / "sign-ins" / f"{hashlib.sha256(named.encode()).hexdigest()[:16]}.json"

    def read(self) -> SignedIn | None:
        """The sign-in; None: there is none. Raises: ConfigError: the file cannot be read, or others can read it."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise ConfigError(
                        "the sign-in can be read by others", detail=str(self.path), fix="loradeck logout, then login"
                    )
                return SignedIn.model_validate_json(file.read())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else "it holds no sign-in"
            raise ConfigError(
                "the sign-in cannot be read", detail=f"{self.path}: {why}", fix="loradeck login"
            ) from None

    def write(self, signed_in: SignedIn) -> None:
        """Replaces the sign-in, durably. Raises: ConfigError: it cannot be written."""
        new = self.path.with_suffix(".new")
        try:
            self._folder()
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(signed_in.model_dump_json().encode())
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            raise ConfigError(
                "the sign-in cannot be kept", detail=f"{new}: {error.strerror}", fix="make room"
            ) from None

    def remove(self) -> None:
        """Removes the sign-in from this machine."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other programs of this user from refreshing: many providers take a refresh token once. Blocking."""
        self._folder()
        with os.fdopen(os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600), "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _folder(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


class TokenSource:
    """The token of a context's sign-in, refreshed in time. A provider that is silent holds nobody up for long.

    Raises: ConfigError: nobody has signed in here.
    """

    def __init__(self, context: Context) -> None:
        self._file = SignInFile(context)
        signed_in = self._file.read()
        if signed_in is None:
            raise _nobody(context)
        self._signed_in: SignedIn | None = signed_in
        self._refreshing: asyncio.Task[None] | None = None
        self._not_before = 0.0

    async def token(self) -> str:
        """The token to show now. The hub decides what an expired one is worth.

        Raises: ConfigError: the provider has ended the sign-in.
        """
        signed_in, now = self._signed_in, time.time()
        if signed_in is not None and signed_in.expires_s - now < EARLY_S:
            if self._refreshing is None and time.monotonic() >= self._not_before and signed_in.refresh_token:
                self._refreshing = asyncio.create_task(self._refresh(signed_in))
            if signed_in.expires_s <= now and self._refreshing is not None:
                await asyncio.wait((self._refreshing,), timeout=WAIT_S)
        if self._signed_in is None:
            raise _nobody(self._file.context)
        return self._signed_in.id_token

    async def _refresh(self, old: SignedIn) -> None:
        try:
            self._signed_in = await asyncio.to_thread(refreshed, self._file, old)
        except ProviderSilent:
            self._not_before = time.monotonic() + AGAIN_S
        except ConfigError:
            self._not_before = time.monotonic() + AGAIN_S  # the file; the token is good as long as it lasts
        finally:
            self._refreshing = None


def refreshed(file: SignInFile, old: SignedIn) -> SignedIn | None:
    """The sign-in with new tokens; None: the provider says that it has ended, and it is removed. Blocking.

    Raises: ProviderSilent: nothing has changed. ConfigError: the file cannot be used.
    """
    with file.locked():
        found = file.read()
        if found is None or found.id_token != old.id_token:
            return found  # another program has refreshed it, or signed out
        form = {"grant_type": "refresh_token", "refresh_token": old.refresh_token, "client_id": file.context.client_id}
        with _provider(file.context) as http:
            try:
                new = _tokens(_post(http, old.token_endpoint, form), old)
            except ProviderRefused:
                file.remove()
                return None
        file.write(new)
        return new


def sign_in(context: Context, show: Callable[[str, str], None]) -> SignedIn:
    """Signs a person in by the device flow, and keeps the tokens. `show` gets the address and the code. Blocking.

    Raises: ProviderSilent, ProviderRefused, ConfigError.
    """
    file = SignInFile(context)
    issuer = context.issuer or ""
    with _provider(context) as http:
        about = _json(http, "GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if about.get("issuer") != issuer:
            raise ProviderSilent("the provider has another name", detail=f"{issuer}: {about.get('issuer')!r}")
        device, tokens = (_endpoint(about, name) for name in ("device_authorization_endpoint", "token_endpoint"))
        asked = _post(http, device, {"client_id": context.client_id, "scope": context.scope})
        code, where = asked.get("user_code"), asked.get("verification_uri_complete") or asked.get("verification_uri")
        if not isinstance(code, str) or not isinstance(where, str) or not isinstance(asked.get("device_code"), str):
            raise ProviderSilent("the provider's answer is no device authorization (RFC 8628)", detail=device)
        show(where, code)
        new = _tokens(
            _polled(http, tokens, asked, context.client_id),
            SignedIn(
                id_token="",
                expires_s=0,
                token_endpoint=tokens,
                revocation_endpoint=str(about.get("revocation_endpoint") or ""),
            ),
        )
    with file.locked():
        file.write(new)
    return new


def revoke(file: SignInFile, signed_in: SignedIn) -> bool:
    """Tells the provider that the refresh token is done with (RFC 7009). Returns whether it was told. Blocking."""
    if not signed_in.refresh_token or not is_safe_url(signed_in.revocation_endpoint):
        return False
    form = {"token": signed_in.refresh_token, "client_id": file.context.client_id, "token_type_hint": "refresh_token"}
    import httpx

    with _provider(file.context) as http:
        try:
            return http.post(signed_in.revocation_endpoint, data=form).is_success
        except httpx.HTTPError:
            return False


def _polled(http: httpx.Client, url: str, asked: dict[str, Any], client_id: str) -> dict[str, Any]:
    """The answer of the token endpoint, once the person has agreed (RFC 8628, sections 3.4 and 3.5).

    Raises: ProviderRefused: the person did not agree, or not in time.
    """
    pause, until = float(asked.get("interval") or 5), time.monotonic() + float(asked.get("expires_in") or 600)
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": asked["device_code"]}
    while time.monotonic() < until:
        time.sleep(pause)
        try:
            return _post(http, url, form | {"client_id": client_id})
        except ProviderRefused as refused:
            if refused.detail == "slow_down":
                pause += 5
            elif refused.detail != "authorization_pending":
                raise
        except ProviderSilent:
            pause *= 2  # as RFC 8628 asks
    raise ProviderRefused("the code was not confirmed in time", detail="expired_token", fix="loradeck login")


def _tokens(answer: dict[str, Any], before: SignedIn) -> SignedIn:
    """The tokens in a provider's answer. Raises: ProviderRefused: there is no ID token among them."""
    token = answer.get("id_token")
    try:
        middle = str(token).split(".")[1]
        expires = float(json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        raise ProviderRefused(
            "the provider gave no ID token", detail=before.token_endpoint, fix="ask for the scope openid"
        ) from None
    refresh = answer.get("refresh_token") or before.refresh_token
    return before.model_copy(update={"id_token": token, "refresh_token": refresh, "expires_s": expires})


@contextmanager
def _provider(context: Context) -> Iterator[httpx.Client]:
    import ssl

    import httpx

    issuer = context.issuer or ""
    verify = ssl.create_default_context() if issuer.startswith("https:") else False
    with httpx.Client(timeout=ANSWER_S, verify=verify, trust_env=not is_loopback(httpx.URL(issuer).host)) as http:
        yield http


def _post(http: httpx.Client, url: str, form: dict[str, str]) -> dict[str, Any]:
    return _json(http, "POST", url, data=form)


def _json(http: httpx.Client, method: str, url: str, **how: Any) -> dict[str, Any]:
    """A provider's answer. Raises: ProviderRefused with OAuth's code as `detail`; ProviderSilent."""
    import httpx

    try:
        answer = http.request(method, url, headers={"accept": "application/json"}, **how)
        found = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ProviderSilent("the provider cannot be reached", detail=f"{url}: {why}", fix="try again later") from None
    if answer.status_code in (400, 401, 403) and isinstance(found, dict) and isinstance(found.get("error"), str):
        told = str(found.get("error_description") or "the provider says no")
        raise ProviderRefused(told, detail=found["error"], fix="loradeck login")
    if not answer.is_success or not isinstance(found, dict):
        raise ProviderSilent("the provider does not answer as one", detail=f"{url}: HTTP {answer.status_code}")
    return found


def _endpoint(about: dict[str, Any], name: str) -> str:
    url = about.get(name)
    if not isinstance(url, str) or not is_safe_url(url):
        raise ProviderSilent(
            "the provider does not say where to ask", detail=name, fix="allow the device authorization grant there"
        )
    return url


def _nobody(context: Context) -> ConfigError:
    return ConfigError("nobody is signed in here", detail=context.where, fix="loradeck login")
