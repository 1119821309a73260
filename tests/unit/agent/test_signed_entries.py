"""Entries that a hub has signed: kept as they were signed, verified when they come, refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nacl.signing import SigningKey
from tests.unit.agent.test_router_sync import Router, entry

from loradeck.artifacts.ed25519 import is_signed, public_half, sign
from loradeck.schemas.link import Ack, Bookmark, Desired, TableState, Welcome
from loradeck.schemas.position import Position
from loradeck.schemas.protocol import PROTOCOL
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import ENTRY_CHARS, SignedText, TableEntry, table_digest
from loradeck_agent.daemon import Agent
from loradeck_agent.router.table import Change, Table, read_contents
from loradeck_agent.router.wire import RouterState, TableUpdate
from loradeck_agent.uplink.desired_table import DesiredTable

HUB, STRANGER = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
HASH = "c" * 64
WELCOME = Welcome(epoch=1, rev=1, hash=HASH, protocol=2, keys=(public_half(HUB),))


def signed(plain: TableEntry, key: SigningKey = HUB) -> TableEntry:
    bare = SignedText(body=plain.model_dump_json(), signature="")
    return TableEntry.opened(bare.model_copy(update={"signature": sign(key, bare.signed_bytes())}))


def altered(text: SignedText) -> TableEntry:
    """The text with another generation, under the signature that it had."""
    return TableEntry.opened(text.model_copy(update={"body": text.body.replace('"generation":2', '"generation":7')}))


def at(rev: int, key: SigningKey = HUB, *, hash_: str = HASH, **named: object) -> Position:
    """A signed position of the hub's log."""
    place = {"log": "l", "incarnation": "i", "epoch": 1, "rev": rev, "hash": hash_} | named
    bare = Position.model_validate(place)
    return bare.model_copy(update={"signature": sign(key, bare.signed_bytes())})


def directive(rev: int, *entries: TableEntry, full: bool = False, position: Position | None = None) -> Desired:
    sent = {"epoch": 1, "rev": rev, "prev_rev": rev - 1, "hash": HASH, "full": full, "position": position or at(rev)}
    return Desired(entries=entries, table=table_digest(entries), **sent)


@pytest.fixture
def sent(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> list[Ack]:
    """The acknowledgements that the agent sends, none of which reaches a hub."""
    messages: list[Ack] = []

    async def note(message: Ack) -> bool:
        messages.append(message)
        return True

    monkeypatch.setattr(agent.acks, "send", note)
    return messages


def test_an_entry_is_passed_on_as_it_was_signed() -> None:
    one = signed(entry(2))
    for message in (
        directive(2, one),
        TableUpdate(epoch=1, rev=2, hash=HASH, entries=(one,)),
        RouterState(pid=1, boot="b", epoch=1, rev=2, hash=HASH, entries=(one,)),
        TableState(epoch=1, rev=2, hash=HASH, entries=(one,)),
    ):
        written = message.model_dump_json()
        assert json.loads(written)["entries"] == [one.signed.model_dump()]
        read = type(message).model_validate_json(written).entries[0]
        assert read == one
        assert read.signed == one.signed
        assert is_signed(read.signed.signed_bytes(), read.signed.signature, WELCOME.keys)


def test_what_a_newer_hub_says_beside_it_stays_in_the_signed_text() -> None:
    body = json.dumps({**json.loads(entry(2).model_dump_json()), "field_of_tomorrow": [1]})
    read = TableEntry.opened(SignedText(body=body, signature="00"))
    assert read.model_copy() == read
    assert "field_of_tomorrow" in json.loads(directive(2, read).model_dump_json())["entries"][0]["body"]


def test_an_entry_that_is_changed_here_is_not_what_was_signed() -> None:
    one = signed(entry(2))
    assert one.model_copy().signed == one.signed
    assert one.model_copy(update={"current": None}).signed is None
    assert one.unsigned().signed is None
    assert one.unsigned().model_dump() == one.model_dump()


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"tenant": "../etc"}', "x" * (ENTRY_CHARS + 1)])
def test_a_signed_text_that_is_no_entry_is_refused(body: str) -> None:
    document = json.loads(directive(2).model_dump_json()) | {"entries": [{"body": body, "signature": ""}]}
    with pytest.raises(ValueError, match="entries"):
        Desired.model_validate(document)


def test_what_no_known_key_signed_is_forged() -> None:
    table = DesiredTable()
    table.welcome(WELCOME)
    good = signed(entry(2))
    assert good.signed is not None
    bad = [entry(2), signed(entry(2), STRANGER), altered(good.signed)]
    for one in bad:
        assert table.forged(directive(2, good, one)) == [one]
    assert table.forged(directive(2, good)) == []


def test_a_hub_of_version_1_which_names_no_keys_is_taken_at_its_word() -> None:
    table = DesiredTable()
    table.welcome(WELCOME.model_copy(update={"keys": (), "protocol": 1}))
    assert table.forged(directive(2, entry(2))) == []


def test_an_entry_is_verified_once_and_not_each_time_that_the_whole_table_is_sent() -> None:
    looked: list[str] = []
    table = DesiredTable(verify=lambda data, signature, keys: not looked.append(signature))
    table.welcome(WELCOME)
    whole = directive(2, signed(entry(2)), full=True)
    assert table.forged(whole) == []
    table.apply(whole)
    assert table.forged(whole) == []
    assert len(looked) == 1


async def test_a_directive_with_a_forged_entry_changes_nothing_and_the_hub_is_told(
    agent: Agent, sent: list[Ack]
) -> None:
    router = Router(agent)
    agent.sync._protocol = PROTOCOL
    await agent._handle(WELCOME)
    first = signed(entry(1))
    await agent._handle(directive(1, first))
    good = signed(entry(2))
    assert good.signed is not None

    await agent._handle(directive(2, altered(good.signed)))
    assert router.table_.contents.entries == agent.table.entries == {first.key: first}
    assert agent.table.cursor.rev == agent.sync.durable.rev == 1
    assert {(ack.replica, ack.state, ack.code) for ack in sent if ack.generation == 7} == {
        (replica, AckState.FAILED, "bad_signature") for replica in agent.acks.replicas
    }

    await agent._handle(directive(2, good, full=True))
    assert router.table_.contents.entries == agent.table.entries == {good.key: good}
    assert agent.sync.durable.rev == 2


BAD_POSITIONS = {
    "unsigned": at(2).model_copy(update={"signature": ""}),
    "of a stranger": at(2, STRANGER),
    "altered": at(1).model_copy(update={"rev": 2}),
    "of another rev": at(3),
    "of another event": at(2, hash_="d" * 64),
    "of another log in this epoch": at(2, log="m"),
    "of another hub in this epoch": at(2, incarnation="j"),
}


@pytest.mark.parametrize("position", BAD_POSITIONS.values(), ids=BAD_POSITIONS)
async def test_a_bad_position_is_refused_before_the_router_is_told(
    agent: Agent, sent: list[Ack], position: Position
) -> None:
    router = Router(agent)
    agent.sync._protocol = PROTOCOL
    await agent._handle(WELCOME)
    first, second = signed(entry(1)), signed(entry(2))
    await agent._handle(directive(1, first))
    sent.clear()

    await agent._handle(directive(2, second, position=position))
    assert router.table_.contents.entries == {first.key: first}
    assert agent.table.cursor.rev == agent.sync.durable.rev == 1
    assert {(ack.generation, ack.state, ack.code) for ack in sent} == {(2, AckState.FAILED, "bad_position")}

    await agent._handle(Bookmark(epoch=1, rev=2, hash=HASH, position=position))
    assert agent.table.cursor.rev == agent.sync.durable.rev == 1

    await agent._handle(directive(2, second, full=True))
    assert router.table_.contents.entries == {second.key: second}


async def test_an_entry_of_another_log_is_refused_before_the_router_is_told(agent: Agent) -> None:
    router = Router(agent)
    agent.sync._protocol = PROTOCOL
    await agent._handle(WELCOME)
    for wrong in ({"log": "m"}, {"epoch": 2}):
        await agent._handle(directive(1, signed(entry(1).model_copy(update=wrong))))
        assert router.table_.contents.entries == {}
    await agent._handle(directive(1, signed(entry(1).model_copy(update={"log": "l"})), full=True))
    assert len(router.table_.contents.entries) == 1


def test_the_signed_text_outlives_the_router_and_its_file_being_rewritten(tmp_path: Path) -> None:
    one = signed(entry(2))
    table = Table(tmp_path)
    table.append(Change(at_ms=1, position=(1, 2, HASH), entries=(one,)))
    table.close()
    assert read_contents(tmp_path).entries[one.key].signed == one.signed
    again = Table(tmp_path)  # which rewrites the file
    assert again.contents.entries[one.key].signed == one.signed
    again.close()
    assert read_contents(tmp_path).entries[one.key].signed == one.signed


async def test_a_router_of_version_1_is_given_entries_as_objects(agent: Agent) -> None:
    router = Router(agent)
    assert agent.sync._protocol == 1, "as long as no router has said more"
    await agent._handle(WELCOME)
    await agent._handle(directive(1, signed(entry(1))))
    assert router.table_.contents.entries[entry(1).key].signed is None
    assert router.table_.contents.entries[entry(1).key].model_dump() == entry(1).model_dump()
