"""A hub that shows two audit trails, or one that was set back: what its nodes have signed contradicts it."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey, VerifyKey
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, data_folder, restore, running
from tests.fleets.linked.member import Member
from tests.fleets.waiting import until

from loradeck.artifacts.ed25519 import public_half, sign
from loradeck.artifacts.notes import cosigned_bytes, text_of
from loradeck.schemas.link import Countersign, Countersigned, Hello
from loradeck.schemas.position import AuditHead


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    async with data_folder() as data, running(data, nodes=True) as made:
        await made.tenant()
        yield made


async def verdict(deck: Deck) -> dict[str, Any]:
    found: dict[str, Any] = await deck.ok("GET", "audit/verify")
    return found


async def signed(deck: Deck, *nodes: str) -> AuditHead:
    """Has the head anchored and signed by these nodes; returns it."""
    await deck.hub.anchor()
    head = deck.hub.audit.anchored
    assert head is not None
    newest = deck.hub.cosigners.newest
    await until(lambda: all(name in newest and newest[name].head == head for name in nodes), "signed")
    return head


async def calls(deck: Deck, n: int) -> None:
    """Makes lines of the trail."""
    for _ in range(n):
        await deck.local.post("nodes/none/drain")
    await deck.hub.audit.flush()


async def test_a_checkpoint_has_signatures_of_nodes_that_anybody_can_check(deck: Deck, tmp_path: Path) -> None:
    members = [Member(deck, tmp_path, name) for name in ("n1", "n2")]
    for member in members:
        await member.join()
    async with members[0].linked(), members[1].linked():
        await signed(deck, "n1", "n2")
        await calls(deck, 3)
        head = await signed(deck, "n1", "n2")
    note = (await deck.local.get("audit/checkpoint")).text
    keys = (await deck.local.get("audit/keys")).text.split()
    text, _, lines = note.partition("\n\n")
    assert text + "\n" == text_of(deck.hub.log.signing.log, head)
    found = {}
    for line in lines.rstrip("\n").split("\n"):
        dash, name, blob = line.split(" ")
        found[name] = base64.b64decode(blob)
        assert dash == "\N{EM DASH}"
    assert list(found) == [f"loradeck.audit/{deck.hub.log.signing.log}", "loradeck.node/n1", "loradeck.node/n2"]
    for key in keys:
        name, id_, public = key.split("+", 2)
        raw, kind = base64.b64decode(public)[1:], base64.b64decode(public)[:1]
        stamped = found[name]
        assert stamped[:4].hex() == id_ == hashlib.sha256(name.encode() + b"\n" + kind + raw).hexdigest()[:8]
        if kind == b"\x04":
            at_s = int.from_bytes(stamped[4:12], "big")
            VerifyKey(raw).verify(f"cosignature/v1\ntime {at_s}\n{text}\n".encode(), stamped[12:])
        else:
            VerifyKey(raw).verify(f"{text}\n".encode(), stamped[4:])
    said = await verdict(deck)
    assert (said["ok"], [(one["node"], one["size"], one["refuses"]) for one in said["cosigners"]]) == (
        True,
        [("n1", head.size, ""), ("n2", head.size, "")],
    )


async def test_a_trail_that_was_set_back_and_written_anew_contradicts_what_a_node_has_signed(tmp_path: Path) -> None:
    async with data_folder() as data:
        async with running(data, nodes=True) as deck:
            await deck.tenant()
            member = Member(deck, tmp_path)
            await member.join()
            await deck.hub.anchor()
        shutil.copy(data / "hub.db", tmp_path / "copy.db")
        async with running(data, nodes=True) as deck:
            member = Member(deck, tmp_path)
            await calls(deck, 5)
            async with member.linked():
                head = await signed(deck, "n1")
        restore(data, tmp_path / "copy.db")  # what was done since is gone, and the copy is whole in itself
        async with running(data, nodes=True) as deck:
            member = Member(deck, tmp_path)
            assert (await verdict(deck))["ok"]
            async with member.linked():
                await until(lambda: "n1" in deck.hub.cosigners.newest, "it says what it has signed")
                assert f"n1 signed a head of {head.size} lines, and here are" in (await verdict(deck))["break"]["why"]
                await deck.hub.anchor()
                await until(lambda: deck.hub.cosigners.listed()[0].refuses, "it does not sign a shorter one")
                await calls(deck, 2 * head.size)
                await deck.hub.anchor()
                await until(lambda: "does not go on" in deck.hub.cosigners.listed()[0].refuses, "nor another one")
                said = await verdict(deck)
        assert f"n1 signed another head of {head.size} lines than these have; no node" in said["break"]["why"]


async def test_a_node_signs_no_second_head_also_when_it_has_started_again(deck: Deck, tmp_path: Path) -> None:
    member = Member(deck, tmp_path)
    await member.join()
    async with member.linked():
        head = await signed(deck, "n1")
    signing, hubs = deck.hub.log.signing, deck.hub.log.signing.keys
    member = Member(deck, tmp_path)
    before = member.cosigner.newest()
    assert before is not None
    assert before.head == head

    def asked(said: AuditHead, signature: str | None = None, old: int = head.size) -> Countersigned | None:
        made = signature or signing.signature(text_of(signing.log, said).encode())
        return member.cosigner.countersign(
            Countersign(log=signing.log, size=said.size, root=said.root, signature=made, old=old, proof=("a" * 64,)),
            hubs,
        )

    longer = AuditHead(size=head.size + 1, root="a" * 64)
    stranger = sign(SigningKey.generate(), text_of(signing.log, longer).encode())
    for said, signature, why in (
        (AuditHead(size=head.size, root="a" * 64), None, "it has signed another head"),
        (AuditHead(size=head.size - 1, root="a" * 64), None, "and this one has"),
        (longer, None, "does not go on"),
        (longer, stranger, "no hub of this log has signed this head"),
    ):
        answer = asked(said, signature)
        assert answer is not None
        assert (why in answer.refuses, answer.model_copy(update={"refuses": ""})) == (True, before)
    assert member.cosigner.newest() == before
    for spoilt in ("[{", "7", "[7]"):
        (member.identity.folder / "cosigned.json").write_text(spoilt)
        answer = asked(head)
        assert answer is not None
        assert (answer.size, "cannot be read" in answer.refuses, member.cosigner.newest()) == (0, True, None)


async def test_a_token_signs_nothing_and_a_node_speaks_for_its_own_key_alone(deck: Deck, tmp_path: Path) -> None:
    member = Member(deck, tmp_path)
    await member.join()
    async with member.linked():
        head = await signed(deck, "n1")
    key, signing = SigningKey.generate(), deck.hub.log.signing
    lie = Countersigned(key=public_half(key), log=signing.log, size=head.size, root="a" * 64, at_s=1)
    liar = LinkedAgent(deck, "n2")
    honest = liar.hello
    liar.hello = lambda: honest().model_copy(update={"cosigned": lie})  # type: ignore[method-assign]
    await liar.join()
    await deck.hub.anchor()
    await liar.send(lie)
    await liar.report()
    await until(lambda: deck.hub.fleet.nodes["n2"].host is None and deck.hub.fleet.nodes["n2"].rev == 0, "heard")
    assert not [one for one in liar.received if isinstance(one, Countersign)]
    said = await verdict(deck)
    assert (said["ok"], [one["node"] for one in said["cosigners"]]) == (True, ["n1"])
    await liar.leave()

    # One that has joined is heard: without a signature it says nothing, and with one it is named, and it alone.
    deck.hub.cosigners.linked("n2", lie)
    assert (await verdict(deck))["ok"]
    text = text_of(signing.log, lie.head)
    genuine = lie.model_copy(update={"signature": sign(key, cosigned_bytes(text, 1))})
    deck.hub.cosigners.linked("n2", genuine)
    why = (await verdict(deck))["break"]["why"]
    assert f"n2 signed another head of {head.size} lines than these have; n1 signed this one" in why


async def test_a_hello_without_a_signature_is_as_before(deck: Deck) -> None:
    said = Hello(node="n1", boot="b", version="0", epoch=0, rev=0, hash="0" * 64, replicas=()).model_dump_json()
    assert "cosigned" not in said
