"""The hub goes away and comes back: the console says so, stays usable, and never shows old figures as new."""

from __future__ import annotations

from pathlib import Path

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import running
from tests.integration.tui.terminal import console

from loradeck.client.config import Context


async def test_the_hub_going_away_and_coming_back_neither_freezes_nor_ends_the_console(data: Path) -> None:
    context = Context(name="here", socket=data / "hub.sock")
    async with console(context) as terminal:
        await terminal.shows("CONNECTING", "no answer yet; trying again")
        assert "no tenants yet" not in terminal.text
        async with running(data) as hub:
            await terminal.shows("hub ok", "no tenants yet")
            agent = await LinkedAgent(hub).join()
            for name in ("acme", "bolt"):  # the first one that is shown is selected
                await hub.tenant(name)
                await hub.promote(await hub.release(name, seed=1), name)
                await terminal.shows("> acme", name, "1/1")
            await agent.leave()
        await terminal.shows("LINK LOST", "figures are from", "AS OF")
        assert "hub ok" not in terminal.text
        terminal.type("j")
        await terminal.shows("> bolt")
        terminal.type("F")
        await terminal.shows("F off: no link to the hub")
        async with running(data):
            await terminal.shows("hub ok", "> bolt")
            assert "LINK LOST" not in terminal.screen.display[0]
            terminal.type("q")
            assert await terminal.ended() == 0


async def test_a_refused_token_is_said_and_is_not_an_empty_fleet(data: Path) -> None:
    async with running(data) as hub:
        token = data / "wrong.token"
        token.write_text("ldv_" + "0" * 40)
        token.chmod(0o600)
        context = Context(name="there", url=f"http://127.0.0.1:{hub.port}", token_file=token)
        async with console(context) as terminal:
            await terminal.shows("CONNECTING", "token")
            assert "no tenants yet" not in terminal.text
            terminal.type("q")
            assert await terminal.ended() == 0
