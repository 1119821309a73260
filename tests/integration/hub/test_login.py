"""`loradeck login`: the device flow, the tokens on this machine, their refresh, and their end."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fakes.sign_in_provider import CLIENT, FakeProvider, fake_provider
from tests.fleets.linked.hub import Deck, data_folder, running
from tests.fleets.waiting import until

from loradeck.client import sign_in as client_sign_in
from loradeck.client.api import HubApi
from loradeck.client.config import Context, load_contexts
from loradeck.client.errors import ApiError, ConfigError
from loradeck.client.feed import Feed, FeedLink, LinkChange
from loradeck.client.sign_in import ProviderRefused, ProviderSilent, SignedIn, SignInFile, revoke, sign_in


@dataclass
class Desk:
    deck: Deck
    provider: FakeProvider
    context: Context

    @property
    def file(self) -> SignInFile:
        return SignInFile(self.context)

    async def login(self) -> tuple[str, str]:
        shown: list[tuple[str, str]] = []
        await asyncio.to_thread(sign_in, self.context, lambda address, code: shown.append((address, code)))
        return shown[0]

    def age(self, seconds: float) -> SignedIn:
        """The kept token as it will be then. Returns it as it was."""
        was = self.file.read()
        assert was is not None
        self.file.write(was.model_copy(update={"expires_s": was.expires_s - seconds}))
        return was


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    async with data_folder() as data, fake_provider() as provider, running(data, oidc=provider.settings()) as deck:
        await deck.tenant()
        await until(lambda: deck.hub.sign_ins and deck.hub.sign_ins._answers, "the provider has answered")
        context = Context(name="eu", url=f"http://127.0.0.1:{deck.port}", issuer=provider.issuer, client_id=CLIENT)
        yield Desk(deck, provider, context)


async def test_a_person_signs_in_with_a_code_and_is_known_at_the_hub(desk: Desk) -> None:
    assert await desk.login() == (f"{desk.provider.issuer}/go", "WDJB-MJHT")
    async with HubApi.to(desk.context) as api:
        assert (await api.me()).actor == "Ann"
    async for item in Feed(desk.context).follow():
        if isinstance(item, LinkChange) and item.state is FeedLink.UP:
            break
    assert stat.S_IMODE(desk.file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(desk.file.path.parent.stat().st_mode) == 0o700


async def test_a_token_goes_to_no_other_hub(desk: Desk) -> None:
    await desk.login()
    other = Context(name="eu", url="http://127.0.0.1:1", issuer=desk.provider.issuer, client_id=CLIENT)
    with pytest.raises(ConfigError, match="nobody is signed in"):
        HubApi.to(other)


async def test_a_sign_in_that_others_can_read_is_not_used(desk: Desk) -> None:
    await desk.login()
    desk.file.path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        HubApi.to(desk.context)


async def test_a_token_is_refreshed_before_it_expires_while_calls_go_on(desk: Desk) -> None:
    await desk.login()
    was = desk.age(3600 - 100)
    async with HubApi.to(desk.context) as api:
        await api.me()
        await until(lambda: (now := desk.file.read()) and now.id_token != was.id_token, "the token is refreshed")
        await api.me()
    assert desk.provider.refresh == 2


async def test_two_programs_refresh_an_expired_token_once(desk: Desk) -> None:
    await desk.login()
    desk.age(4000)
    async with HubApi.to(desk.context) as first, HubApi.to(desk.context) as second:
        await asyncio.gather(first.me(), second.me(), first.me())
    assert desk.provider.refresh == 2, "a second refresh with the same token would have ended the sign-in"


async def test_a_provider_that_says_no_ends_the_sign_in_at_once(desk: Desk) -> None:
    await desk.login()
    desk.age(4000)
    desk.provider.says_no = "invalid_grant"
    async with HubApi.to(desk.context) as api:
        with pytest.raises(ConfigError, match="nobody is signed in"):
            await api.me()
    assert desk.file.read() is None


async def test_with_a_silent_provider_the_expired_token_is_shown_and_the_hub_decides(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, refreshed = list[SignedIn](), client_sign_in.refreshed

    def counted(file: SignInFile, old: SignedIn) -> SignedIn | None:
        asked.append(old)
        return refreshed(file, old)

    monkeypatch.setattr(client_sign_in, "refreshed", counted)
    await desk.login()
    async with HubApi.to(desk.context) as api:
        await api.me()
    desk.age(4000)
    await desk.provider.stop()
    await until(lambda: desk.deck.hub.sign_ins and desk.deck.hub.sign_ins._answers is False, "the hub has asked")
    now = desk.deck.hub.clock.now_ms()
    desk.deck.hub.clock.now_ms = lambda: now + 4_000_000
    async with HubApi.to(desk.context) as api:
        assert (await api.me()).backward
        await api.me()
    assert len(asked) == 1, "a provider that did not answer is not asked each time"
    assert desk.file.read() is not None
    await desk.provider.start()


async def test_a_sign_out_ends_it_here_at_the_hub_and_at_the_provider(desk: Desk) -> None:
    await desk.login()
    kept = desk.file.read()
    assert kept is not None
    async with HubApi.to(desk.context) as api:
        await api.sign_out()
        with pytest.raises(ApiError, match="no valid token"):
            await api.me()
    assert await asyncio.to_thread(revoke, desk.file, kept)
    desk.file.remove()
    with pytest.raises(ConfigError, match="nobody is signed in"):
        HubApi.to(desk.context)


async def test_who_does_not_agree_is_not_signed_in(desk: Desk) -> None:
    desk.provider.says_no = "access_denied"
    with pytest.raises(ProviderRefused, match="access_denied"):
        await desk.login()
    assert desk.file.read() is None


async def test_another_provider_at_the_address_is_none(desk: Desk) -> None:
    desk.context = Context(name="eu", url=desk.context.url, issuer=f"{desk.provider.issuer}/x", client_id=CLIENT)
    with pytest.raises(ProviderSilent, match="another name"):
        await desk.login()


@pytest.mark.parametrize(
    "wrong", ['issuer = "http://login.example.com"\nclient_id = "x"', 'issuer = "https://a"', 'client_id = "x"']
)
def test_a_context_has_an_issuer_that_a_secret_may_be_sent_to_and_a_client_id(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[contexts.eu]\nurl = "https://hub"\n{wrong}\n')
    with pytest.raises(ConfigError, match="a sign-in needs an issuer"):
        load_contexts(path)
