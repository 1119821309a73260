"""Table entries as a hub signs them: once for all nodes, verifiable by each, and readable by nodes of version 1."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import restore, running
from tests.fleets.waiting import until
from tests.integration.hub.test_recover import copy_of

from loradeck.artifacts.ed25519 import is_signed
from loradeck.hub.log import signing
from loradeck.schemas.link import ChallengeAnswer, Desired
from loradeck.schemas.table import TableEntry

ACME = ("acme", "production")


def last_entry(agent: LinkedAgent) -> TableEntry:
    return next(e for m in reversed(agent.received) if isinstance(m, Desired) for e in m.entries if e.key == ACME)


async def test_what_a_node_is_sent_is_signed_by_a_key_that_the_welcome_names(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        release = await deck.release(seed=1)
        await deck.promote(release)
        entry = last_entry(agent)
        assert entry.current is not None
        assert entry.current.id == release
        assert agent.welcome is not None
        assert entry.signed is not None
        assert is_signed(entry.signed.signed_bytes(), entry.signed.signature, agent.welcome.keys)
        log = deck.hub.log
        assert (entry.log, entry.incarnation) == (log.signing.log, log.signing.incarnations[entry.epoch])
        assert deck.hub.log.signing.is_genuine(entry)
        assert not deck.hub.log.signing.is_genuine(entry.unsigned())


async def test_the_rev_of_an_entry_is_that_of_its_last_change_also_without_a_move(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        await deck.promote(await deck.release(seed=1))
        moved = last_entry(agent)
        await deck.ok("POST", "tenants", {"name": "bolt"})  # which changes nothing about acme
        await deck.ok("PUT", "tenants/acme/routes/production", {"gap": "base"})
        changed = await until(lambda: last_entry(agent) if last_entry(agent).gap == "base" else None, "the settings")
        assert changed.fence == moved.fence
        assert moved.rev < changed.rev == deck.hub.log.state.rev


async def test_a_restart_of_the_hub_changes_no_entry(data: Path) -> None:
    async with running(data) as deck:
        for name in ("acme", "bolt"):
            await deck.tenant(name)
        await LinkedAgent(deck, "n1").join()
        await deck.promote(await deck.release(seed=1))
        await deck.ok("POST", "tenants/acme/suspend")
        await deck.ok("PUT", "tenants/bolt/routes/canary", {"gap": "base"})
        before = dict(deck.hub.tables.entries)
    async with running(data) as deck:
        assert deck.hub.tables.entries == before


async def test_an_entry_is_signed_once_however_many_nodes_get_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[bytes] = []
    real = signing.sign

    def counted(key: signing.SigningKey, text: bytes) -> str:
        if text.startswith(b"loradeck/entry/"):
            signed.append(text)
        return real(key, text)

    async with running(data) as deck:
        await deck.tenant()
        agents = [await LinkedAgent(deck, f"n{i}").join() for i in range(5)]
        release = await deck.release(seed=1)
        monkeypatch.setattr(signing, "sign", counted)
        await deck.promote(release)
        assert all(last_entry(agent).current is not None for agent in agents)
        # One entry while the promote is prepared, one when it is made.
        assert len(signed) == len(set(signed)) == 2


async def test_a_node_of_version_1_gets_entries_as_objects(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = LinkedAgent(deck, "n1")
        agent.protocol = 1
        await agent.join()
        await deck.promote(await deck.release(seed=1))
        assert last_entry(agent).signed is None
        assert last_entry(agent).current is not None


async def test_a_restored_hub_believes_the_entries_that_the_hub_before_it_has_signed(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        backup = copy_of(deck, "backup.db")
        await deck.promote(await deck.release(seed=1))
        entry = last_entry(agent)
    restore(data, backup)
    (data / "hub.key").unlink()
    async with running(data) as deck:
        assert len(deck.hub.log.signing.keys) == 2
        assert deck.hub.log.signing.is_genuine(entry)


async def test_an_answer_to_a_challenge_that_nobody_asked_changes_nothing(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        await agent.send(ChallengeAnswer(nonce="9f86", boot=agent.boot))
        await deck.promote(await deck.release(seed=1))
        assert agent.closed is None
