"""Tokens that somebody made up, stole, kept or bent: none of them signs anybody in."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc.jwk import ECKey, RSAKey
from tests.fakes.sign_in_provider import CLIENT, FakeProvider, fake_provider
from tests.fleets.linked.hub import Deck, data_folder, key, running
from tests.fleets.waiting import until

ROUTE = "tenants/acme/routes/production"


@dataclass
class SignIn:
    deck: Deck
    provider: FakeProvider

    async def status(self, token: str, path: str = "state") -> int:
        return (await self.deck.with_token(token).get(path)).status_code


@pytest.fixture
async def sign_in() -> AsyncIterator[SignIn]:
    """A hub with the tenants acme and bolt whose people sign in at a provider."""
    async with data_folder() as data, fake_provider() as provider, running(data, oidc=provider.settings()) as deck:
        await deck.tenant()
        await deck.tenant("bolt")
        await until(lambda: deck.hub.provider._keys, "the hub has the provider's keys")
        before = deck.fingerprint()
        yield SignIn(deck, provider)
        assert deck.fingerprint() == before


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _signed(header: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """A token as no honest library makes it."""
    text = f"{_part(header)}.{_part(claims)}"
    return f"{text}.{base64.urlsafe_b64encode(sign(text.encode())).rstrip(b'=').decode()}"


def _now() -> int:
    return int(time.time())


async def test_a_good_token_signs_somebody_in(sign_in: SignIn) -> None:
    client = sign_in.deck.with_token(sign_in.provider.token())
    me = await sign_in.deck.ok("GET", "me", client=client)
    assert me == {"actor": "Ann", "role": "operator", "local": False}
    held = {"held": True, "expected_generation": 0, "idempotency_key": key()}
    refused = await client.post(f"{ROUTE}/undo", json=held)
    assert refused.status_code == 422, "an operator may, were the request right"


WRONG: dict[str, dict[str, Any]] = {
    "of another issuer": {"iss": "https://login.example.org"},
    "without an issuer": {"iss": None},
    "for another audience": {"aud": "payroll"},
    "for another audience among others": {"aud": [CLIENT, "payroll"], "azp": "payroll"},
    "for several audiences, asked for by nobody": {"aud": [CLIENT, "payroll"]},
    "asked for by another client": {"azp": "payroll"},
    "without an audience": {"aud": None},
    "expired": {"iat": _now() - 7200, "exp": _now() - 3600},
    "without an end": {"exp": None},
    "without an issue": {"iat": None},
    "not yet valid": {"nbf": _now() + 3600},
    "issued in the future": {"iat": _now() + 3600},
    "of nobody": {"sub": None},
    "of an empty subject": {"sub": ""},
    "of a number": {"sub": 7},
    "of a subject with control characters": {"sub": "a\x1b]52;c;eA==\x07"},
    "that tells of a sign-out": {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
    "with an end that is no number": {"exp": "tomorrow"},
    "with an end beyond all numbers": {"exp": float("inf")},
    "with an issue that is none": {"iat": float("nan")},
    "with an end that is true": {"exp": True},
}


async def test_a_token_with_a_wrong_claim_is_none(sign_in: SignIn) -> None:
    taken = [what for what, claims in WRONG.items() if await sign_in.status(sign_in.provider.token(**claims)) < 400]
    assert not taken


async def test_a_token_that_nobody_signed_is_none(sign_in: SignIn) -> None:
    claims = sign_in.provider.claims()
    for alg in ("none", "None", "NONE", ""):
        for signature in ("", "x"):
            unsigned = f"{_part({'alg': alg, 'kid': 'first'})}.{_part(claims)}.{signature}"
            assert await sign_in.status(unsigned) == 401
    assert await sign_in.status(f"{_part({'kid': 'first'})}.{_part(claims)}.x") == 401


async def test_the_public_key_is_no_shared_secret(sign_in: SignIn) -> None:
    public, claims = sign_in.provider.keys[0], sign_in.provider.claims()
    for secret in (public.as_pem(private=False), json.dumps(public.as_dict(private=False)).encode()):
        for kid in ({"kid": "first"}, {}):
            forged = _signed({"alg": "HS256", **kid}, claims, lambda text, s=secret: hmac.digest(s, text, "sha256"))
            assert await sign_in.status(forged) == 401


async def test_a_key_that_the_token_brings_along_is_not_used(sign_in: SignIn) -> None:
    own = RSAKey.generate_key(2048, {"kid": "first"})
    public = own.as_dict(private=False)
    for more in ({}, {"jwk": public}, {"jku": "http://127.0.0.1:1/keys"}, {"x5u": "http://127.0.0.1:1/c"}):
        forged = sign_in.provider.token({"alg": "RS256", "kid": "first", **more}, own)
        assert await sign_in.status(forged) == 401
    assert await sign_in.status(sign_in.provider.token({"alg": "RS256", "kid": "own"}, own)) == 401
    assert await sign_in.status(sign_in.provider.token({"alg": "RS256"}, own)) == 401


async def test_only_the_algorithm_that_was_agreed_is_taken(sign_in: SignIn) -> None:
    private, claims = sign_in.provider.keys[0].private_key, sign_in.provider.claims()
    for alg, digest in (("RS512", hashes.SHA512()), ("RS384", hashes.SHA384()), ("RS256 ", hashes.SHA256())):
        header = {"alg": alg, "kid": "first"}
        forged = _signed(header, claims, lambda text, d=digest: private.sign(text, padding.PKCS1v15(), d))
        assert await sign_in.status(forged) == 401
    other = ECKey.generate_key("P-256", {"kid": "ec", "use": "sig", "alg": "ES256"})
    sign_in.provider.keys.append(other)
    asked = sign_in.provider.asked
    await until(lambda: sign_in.provider.asked > asked + 1, "the hub has fetched the keys again")
    assert await sign_in.status(sign_in.provider.token({"alg": "ES256", "kid": "ec"}, other)) == 401


async def test_a_token_of_another_kind_is_none(sign_in: SignIn) -> None:
    private, claims = sign_in.provider.keys[0].private_key, sign_in.provider.claims()
    more: tuple[dict[str, Any], ...] = (
        {"typ": "at+jwt"},
        {"typ": "logout+jwt"},
        {"crit": ["x"], "x": 1},
        {"kid": ["x"]},
    )
    for header in more:
        token = _signed(
            {"alg": "RS256", "kid": "first", **header},
            claims,
            lambda text: private.sign(text, padding.PKCS1v15(), hashes.SHA256()),
        )
        assert await sign_in.status(token) == 401
    usual = _signed(
        {"alg": "RS256", "kid": "first"}, claims, lambda text: private.sign(text, padding.PKCS1v15(), hashes.SHA256())
    )
    assert await sign_in.status(usual) == 200, "what was refused is the header, not the way it was made"


async def test_a_changed_token_is_none(sign_in: SignIn) -> None:
    head, _, signature = sign_in.provider.token().split(".")
    richer = _part(sign_in.provider.claims(groups=["admins"]))
    assert await sign_in.status(f"{head}.{richer}.{signature}") == 401
    assert await sign_in.status(f"{head}..{signature}") == 401
    assert await sign_in.status("..") in (401, 429)
    deep = base64.urlsafe_b64encode(b"[" * 4000).rstrip(b"=").decode()
    assert await sign_in.status(f"{deep[:3000]}.{deep[:3000]}.x") == 401


async def test_a_group_that_maps_to_nothing_gives_nothing(sign_in: SignIn) -> None:
    for groups in (None, [], ["payroll"], ["ADMINS", "admins "], "admins", {"admins": True}, [["admins"]]):
        assert await sign_in.status(sign_in.provider.token(groups=groups)) == 403
    assert await sign_in.status(sign_in.provider.token(groups=["payroll", "on-call"])) == 200


async def test_a_group_for_one_tenant_gives_nothing_at_another(sign_in: SignIn) -> None:
    token = sign_in.provider.token(groups=["acme"])
    assert await sign_in.status(token, ROUTE) == 200
    assert await sign_in.status(token, ROUTE.replace("acme", "bolt")) == 403


async def test_a_token_is_none_after_its_sign_out_also_written_in_another_way(sign_in: SignIn) -> None:
    token, later = sign_in.provider.token(), sign_in.provider.token(exp=_now() + 3700)
    client = sign_in.deck.with_token(token)
    assert (await client.delete("me/sign-in")).status_code == 204
    head, claims, signature = token.split(".")
    last = signature[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same = alphabet[alphabet.index(last) ^ 1]  # bits that decoders may ignore
    for again in (token, f"{head}.{claims}.{signature[:-1]}{same}", f"{token}==", f"{token}="):
        assert await sign_in.status(again) == 401
    assert await sign_in.status(later) == 200, "the protocol's limit: another token of this person is another sign-in"


async def test_a_sign_out_is_kept_when_the_hub_starts_again() -> None:
    async with data_folder() as data, fake_provider() as provider:
        token = provider.token()
        async with running(data, oidc=provider.settings()) as deck:
            await until(lambda: deck.hub.provider._keys, "the hub has the provider's keys")
            assert (await deck.with_token(token).delete("me/sign-in")).status_code == 204
        async with running(data, oidc=provider.settings()) as deck:
            await until(lambda: deck.hub.provider._keys, "the hub has the provider's keys")
            assert (await deck.with_token(token).get("state")).status_code == 401


async def test_who_is_cut_off_on_the_hubs_host_has_no_valid_token_left(sign_in: SignIn) -> None:
    known, unseen = sign_in.provider.token(), sign_in.provider.token(exp=_now() + 3700)
    assert await sign_in.status(known) == 200
    await sign_in.deck.ok("DELETE", "tokens/oidc:s-1")
    assert await sign_in.status(known) == 401
    assert await sign_in.status(unseen) == 401
    assert await sign_in.status(sign_in.provider.token(sub="s-2", name="Bob")) == 200


async def test_nobody_takes_another_name_or_anothers(sign_in: SignIn) -> None:
    async def name(**claims: Any) -> str:
        client = sign_in.deck.with_token(sign_in.provider.token(**claims))
        found: str = (await sign_in.deck.ok("GET", "me", client=client))["actor"]
        return found

    assert await name() == "Ann"
    assert await name(name="Bob", exp=_now() + 3700) == "Ann", "a second name would make two people of one"
    assert await name(sub="s-2") == "Ann (s-2)"
    assert await name(sub="s-3", name="\x1b[2JEve") == "[2JEve"


async def test_a_token_that_goes_on_and_on_is_believed_for_a_day(sign_in: SignIn) -> None:
    token = sign_in.provider.token(exp=_now() + 100 * 86_400)
    assert await sign_in.status(token) == 200
    now = sign_in.deck.hub.clock.now_ms()
    sign_in.deck.hub.clock.now_ms = lambda: now + 25 * 3_600_000
    assert await sign_in.status(token) == 401


async def test_a_person_cannot_open_a_link_or_make_tokens(sign_in: SignIn) -> None:
    client = sign_in.deck.with_token(sign_in.provider.token(groups=["admins"]))
    answer = await client.post("tokens", json={"name": "more", "role": "releaser"})
    assert (answer.status_code, answer.json()["code"]) == (403, "local_only")


async def test_keys_that_nobody_knows_do_not_make_the_hub_ask_more_often() -> None:
    async with (
        data_folder() as data,
        fake_provider(look_s=60) as provider,
        running(data, oidc=provider.settings()) as deck,
    ):
        await until(lambda: deck.hub.provider._keys, "the hub has the provider's keys")
        for n in range(50):
            forged = provider.token({"alg": "RS256", "kid": f"k{n}"}, provider.keys[0])
            assert (await deck.with_token(forged).get("state")).status_code in (401, 429)
        assert provider.asked == 1


async def test_a_new_key_of_the_provider_is_known_soon_and_the_old_one_no_longer(sign_in: SignIn) -> None:
    old, new = sign_in.provider.keys[0], RSAKey.generate_key(2048, {"kid": "second", "use": "sig", "alg": "RS256"})
    sign_in.provider.keys = [new]
    await sign_in.status(sign_in.provider.token({"alg": "RS256", "kid": "second"}))
    asked = sign_in.provider.asked
    await until(lambda: sign_in.provider.asked > asked + 1, "the hub has fetched the keys again")
    assert await sign_in.status(sign_in.provider.token({"alg": "RS256", "kid": "second"})) == 200
    assert await sign_in.status(sign_in.provider.token({"alg": "RS256", "kid": "first"}, old)) == 401


async def test_the_provider_of_another_name_is_not_believed() -> None:
    async with data_folder() as data, fake_provider() as provider:
        settings = provider.settings(issuer=f"http://localhost:{provider.port}")
        async with running(data, oidc=settings) as deck:
            await until(lambda: provider.asked > 1, "the hub has asked twice")
            assert (await deck.with_token(provider.token(iss=settings.issuer)).get("state")).status_code == 401


async def test_a_token_costs_no_question_and_is_read_only_so_far(sign_in: SignIn) -> None:
    asked = sign_in.provider.asked
    long = f"{'a' * 3000}.{'b' * 3990}.{'c' * 11}"
    assert len(long) > 7000
    assert await sign_in.status(long) == 401
    assert asked <= sign_in.provider.asked <= asked + 2, "what it asks, it asks by the clock"


async def test_at_a_hub_without_a_provider_such_a_token_is_none() -> None:
    async with data_folder() as data, fake_provider() as provider, running(data) as deck:
        assert (await deck.with_token(provider.token()).get("state")).status_code == 401
