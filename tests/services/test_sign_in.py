"""A whole sign-in at a real provider (npm's `oidc-provider`): the commands, the provider's own pages, a hub."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fleets.linked.hub import Deck, data_folder, running
from tests.fleets.processes.hub import LORADECK
from tests.fleets.waiting import PATIENCE_S, until

from loradeck.hub.access import provider
from loradeck.rules.clocks import HOUR_MS
from loradeck.schemas.sign_in import OidcSettings

HERE = Path(__file__).parent


@dataclass
class Desk:
    """A hub, a provider, and somebody at a shell."""

    deck: Deck
    home: Path
    issuer: str
    process: asyncio.subprocess.Process

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        env = {name: value for name, value in os.environ.items() if not name.startswith("LORADECK_")}
        env |= {"XDG_STATE_HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home)}
        pipe = subprocess.PIPE
        return await asyncio.create_subprocess_exec(LORADECK, *words, env=env, stdout=pipe, stderr=pipe)

    async def run(self, *words: str) -> tuple[int, Any, str]:
        """Exit status, what a command prints with --json, and its errors."""
        process = await self.start(*words, "--json")
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, json.loads(out) if out.strip() else None, err.decode()

    async def login(self, name: str) -> tuple[int, Any, str]:
        """`loradeck login`, while this person confirms the code on the provider's pages."""
        process = await self.start("login", "--json")
        assert process.stderr is not None
        first = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
        await confirm(first.split()[1], name)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, json.loads(out) if out.strip() else None, err.decode()

    async def end_provider(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def confirm(address: str, name: str) -> None:
    """Goes through the provider's pages in the order in which it shows them: code, name, consent."""
    async with httpx.AsyncClient(follow_redirects=True, timeout=PATIENCE_S, trust_env=False) as browser:
        page = await browser.get(address)
        for _ in range(6):
            form = re.search(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', page.text, re.S)
            if form is None:
                break
            fields = dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', form[2]))
            if 'name="login"' in form[2]:
                fields |= {"login": name, "password": "any"}
            page = await browser.post(page.url.join(unescape(form[1])), data=fields)
            assert page.status_code == 200, page.text
        assert "Sign-in Success" in page.text, page.text


@asynccontextmanager
async def at_the_provider(home: Path, life_s: int) -> AsyncIterator[Desk]:
    node = shutil.which("node")
    assert node is not None, "this needs Node.js 20 or newer"
    assert (HERE / "node_modules").exists(), "run it by `make test-services`, which installs the provider"
    process = await asyncio.create_subprocess_exec(
        node, "provider.mjs", "0", str(life_s), cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    issuer = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
    grants = {"on-call": {"role": "operator", "tenants": ["acme"]}}
    settings = OidcSettings.model_validate({"issuer": issuer, "client_id": "loradeck", "groups": grants})
    try:
        async with data_folder() as data, running(data, oidc=settings) as deck:
            await deck.tenant()
            (home / "loradeck").mkdir()
            (home / "loradeck" / "config.toml").write_text(
                f'current = "eu"\n[contexts.eu]\nurl = "http://127.0.0.1:{deck.port}"\n'
                f'issuer = "{issuer}"\nclient_id = "loradeck"\n'
            )
            await until(lambda: deck.hub.sign_ins and deck.hub.sign_ins._answers, "the provider has answered")
            yield Desk(deck, home, issuer, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "LOOK_S", 0.2)
    monkeypatch.setattr(provider, "SPACING_S", 0.1)


async def test_somebody_signs_in_acts_and_signs_out(tmp_path: Path) -> None:
    async with at_the_provider(tmp_path, 3600) as desk:
        status, me, err = await desk.login("ann")
        assert status == 0, err
        assert (me["role"], me["tenants"]) == ("operator", {"acme": "operator"})
        assert (await desk.run("whoami"))[1] == me
        status, _, err = await desk.run("hold", "acme", "--reason", "a test")
        assert status == 0, err
        held = next(event for event in desk.deck.hub.log.recent if event.kind == "hold")
        assert (held.token, held.actor) == ("oidc:ann", me["actor"])
        assert (await desk.run("logout"))[1] == {"here": True, "hub": True, "provider": True}
        assert (await desk.run("whoami"))[0] == 2


async def test_tokens_are_refreshed_at_the_provider(tmp_path: Path) -> None:
    async with at_the_provider(tmp_path, 3600) as desk:
        assert (await desk.login("ann"))[0] == 0
        (file,) = (tmp_path / "loradeck" / "sign-ins").glob("*.json")
        kept = json.loads(file.read_text())
        for _ in range(3):  # the provider gives a new refresh token each time, and takes the old one no longer
            before = json.loads(file.read_text())
            file.write_text(json.dumps(before | {"expires_s": 0}))
            assert (await desk.run("whoami"))[0] == 0
            assert json.loads(file.read_text())["refresh_token"] != before["refresh_token"]
        file.write_text(json.dumps(kept | {"expires_s": 0}))
        status, _, err = await desk.run("whoami")
        assert (status, "nobody is signed in" in err) == (2, True), "a refresh token that was used is refused for good"
        assert not file.exists()


async def test_who_is_in_no_group_with_a_role_is_not_let_in(tmp_path: Path) -> None:
    async with at_the_provider(tmp_path, 3600) as desk:
        status, _, err = await desk.login("ben")
        assert (status, "no_role" in err) == (6, True), err
        assert (await desk.run("whoami"))[0] == 2


async def test_with_the_provider_gone_what_puts_back_is_left(tmp_path: Path) -> None:
    async with at_the_provider(tmp_path, 60) as desk:
        status, me, err = await desk.login("ann")
        assert status == 0, err
        await desk.end_provider()
        await until(lambda: desk.deck.hub.sign_ins and desk.deck.hub.sign_ins._answers is False, "the hub has asked")
        now = desk.deck.hub.clock.now_ms()
        desk.deck.hub.clock.now_ms = lambda: now + HOUR_MS
        assert (await desk.run("whoami"))[1] == me | {"backward": True}
        shown = await desk.start("whoami")
        assert b"only R, F and hold are left" in (await shown.communicate())[0]
        assert (await desk.run("hold", "acme", "--reason", "a test"))[0] == 0
        status, _, err = await desk.run("release-hold", "acme", "--yes")
        assert (status, "provider_silent" in err) == (6, True), err
