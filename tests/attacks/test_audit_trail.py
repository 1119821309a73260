"""Whoever can write the hub's database: what they change behind the hub's back is found, and named."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import VerifyKey
from sqlite_utils.utils import sqlite3
from tests.fleets.linked.hub import Deck, data_folder, running

from loradeck.hub.log.signing import private_key
from loradeck.rules.merkle import Frontier
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.audit import AuditLine


async def done(deck: Deck) -> str:
    """Makes and withdraws a token, attests, reads rows, fails a login and a call; then the head is anchored.

    Returns the id of the withdrawn token.
    """
    await deck.tenant()
    made = await deck.ok("POST", "tokens", {"name": "guest", "role": "viewer"})
    await deck.ok("DELETE", f"tokens/{made['id']}")
    answer = await deck.with_token("ld_0_0").get("nodes")
    assert answer.status_code == 401
    viewer = await deck.as_role("viewer")
    assert (await viewer.post("nodes/n1/drain")).status_code == 403
    attestations = deck.hub.attestations
    await attestations.add(attestations.draft(AttestationKind.EVALUATION, "a" * 64, "acme", {"score": 0.5}, "job"))
    await deck.hub.audit.anchor()
    return str(made["id"])


async def lines(deck: Deck) -> list[AuditLine]:
    return [AuditLine.model_validate(line) for line in await deck.ok("GET", "audit")]


async def verdict(deck: Deck) -> dict[str, Any]:
    found: dict[str, Any] = await deck.ok("GET", "audit/verify")
    return found


def raw(data: Path, *statements: str) -> None:
    """Writes the database of a hub that does not run, as its host's root can."""
    connection = sqlite3.connect(data / "hub.db", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


async def after(*statements: str) -> dict[str, Any]:
    """The verdict of a hub whose database was changed while it was down."""
    async with data_folder() as data:
        async with running(data) as deck:
            token = await done(deck)
            assert (await verdict(deck))["ok"]
        raw(data, *(statement.format(token=token) for statement in statements))
        async with running(data) as deck:
            return await verdict(deck)


async def test_what_was_done_and_what_was_refused_is_in_the_trail_with_who_it_was() -> None:
    async with data_folder() as data, running(data) as deck:
        token = await done(deck)
        viewer = (await deck.ok("GET", "tokens"))[-1]["id"]
        found = await lines(deck)
        assert [line.seq for line in found] == list(range(1, len(found) + 1))
        by_call = {line.call: line for line in found}
        made = next(line for line in found if line.subject.get("token") == token)
        assert (made.call, made.status, made.subject["name"]) == ("POST /v1/tokens", 200, "guest")
        withdrawn = by_call["DELETE /v1/tokens/{token_id}"]
        assert (withdrawn.subject, withdrawn.status, withdrawn.token) == ({"token_id": token}, 204, None)
        drained = by_call["POST /v1/nodes/{node}/drain"]
        assert (drained.actor, drained.token, drained.status) == ("viewer", viewer, 403)
        assert drained.subject == {"node": "n1"}
        assert by_call["login"].detail.startswith("failed login from 127.0.0.1: /v1/nodes")
        assert by_call["attest"].subject["kind"] == "evaluation"
        assert not any("ld_" in line.model_dump_json() for line in found), "no token is in it"


async def test_reads_of_rows_are_in_the_trail_and_other_reads_are_not() -> None:
    async with data_folder() as data, running(data) as deck:
        await deck.tenant()
        dataset = await deck.dataset()
        (file,) = deck.hub.catalogue.datasets[dataset].files
        await deck.local.get(f"blobs/{file.sha256}")
        await deck.ok("GET", "nodes")
        calls = [(line.call, line.subject) for line in await lines(deck) if line.call.startswith("GET")]
        assert calls == [("GET /v1/blobs/{sha256}", {"sha256": file.sha256, "rows_of": dataset})]


async def test_the_head_is_anchored_in_the_log_once_and_lists_of_events_leave_it_out() -> None:
    async with data_folder() as data, running(data) as deck:
        await done(deck)
        rev, head = deck.hub.log.state.rev, deck.hub.store
        await deck.hub.audit.anchor()
        assert deck.hub.log.state.rev == rev, "nothing has changed"
        (event,) = await head(lambda s: s.since(rev - 1))
        trail = (await verdict(deck))["trail"]
        assert (event.kind.value, event.payload) == ("audit", trail)
        listed = [event["kind"] for event in await deck.ok("GET", "events")]
        shown = [event["kind"] for event in (await deck.ok("GET", "state"))["events"]]
        assert "audit" not in listed + shown


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (
            "UPDATE audit SET body = replace(body, '403', '200') WHERE body LIKE '%403%'",
            "was changed: the log has anchored another root",
        ),
        ("DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)", "which the log has anchored, are missing"),
        ("DELETE FROM audit WHERE seq = 2", "line 2 is missing"),
        (
            "INSERT INTO tokens SELECT 'abc', replace(replace(body, '{token}', 'abc'), 'guest', 'ghost') FROM tokens"
            " WHERE id = '{token}'",
            "token abc (ghost) was not made by a call",
        ),
        (
            "UPDATE attestations SET body = '{{\"score\": 0.9}}' WHERE kind = 'evaluation'",
            "the evaluation of aaaaaaaaaaaa (attestation 1) was changed",
        ),
        ("DELETE FROM attestations WHERE kind = 'evaluation'", "attestation 1 is missing"),
    ],
)
async def test_what_was_changed_in_the_database_is_named(statement: str, why: str) -> None:
    found = await after("DROP TRIGGER audit_never_changes", "DROP TRIGGER audit_never_goes", statement)
    assert not found["ok"]
    assert why in found["break"]["why"]


async def test_a_tail_that_was_rewritten_with_its_tree_does_not_have_the_anchored_root() -> None:
    async with data_folder() as data:
        async with running(data) as deck:
            await done(deck)
            size = (await verdict(deck))["trail"]["size"]
        raw(
            data,
            "DROP TRIGGER audit_never_changes",
            "DROP TRIGGER audit_never_goes",
            f"DELETE FROM audit WHERE seq > {size - 2}",
            *(
                f"INSERT INTO audit SELECT {n}, replace(body, '\"seq\":1,', '\"seq\":{n},') FROM audit WHERE seq = 1"
                for n in (size - 1, size)
            ),
        )
        connection = sqlite3.connect(data / "hub.db", isolation_level=None)
        texts = [text for (text,) in connection.execute("SELECT body FROM audit ORDER BY seq")]
        frontier = Frontier().extended(text.encode() for text in texts).as_text()
        connection.execute("UPDATE meta SET value = ? WHERE name = 'audit_frontier'", (frontier,))
        connection.close()
        async with running(data) as deck:
            found = await verdict(deck)
        assert f"a line up to {size} was changed: the log has anchored another root" in found["break"]["why"]


async def test_the_checkpoint_is_a_note_that_its_key_has_signed() -> None:
    async with data_folder() as data, running(data) as deck:
        await done(deck)
        trail = (await verdict(deck))["trail"]
        note = (await deck.local.get("audit/checkpoint")).text
        text, _, signatures = note.partition("\n\n")
        origin, size, root = text.split("\n")
        assert (origin, int(size)) == (f"loradeck.audit/{deck.hub.log.signing.log}", trail["size"])
        assert base64.b64decode(root).hex() == trail["root"]
        dash, name, blob = signatures.strip().split(" ")
        key: VerifyKey = private_key(data / "hub.key").verify_key
        signed = base64.b64decode(blob)
        assert (dash, name) == ("\N{EM DASH}", origin)
        assert signed[:4] == hashlib.sha256(origin.encode() + b"\n\x01" + bytes(key)).digest()[:4]
        key.verify(text.encode() + b"\n", signed[4:])


async def test_lines_that_the_store_refuses_are_kept_and_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with data_folder() as data, running(data) as deck:
        await deck.tenant()
        before = len(await lines(deck))
        monkeypatch.setattr("loradeck.hub.log.audit.HELD", 2)
        real = deck.hub.audit._store

        async def full(call: Any, **how: Any) -> Any:
            from loradeck.store.interface import DiskFull

            raise DiskFull("no room")

        deck.hub.audit._store = full  # type: ignore[assignment]
        for _ in range(4):
            await deck.local.post("nodes/none/drain")
        await deck.hub.audit.flush()
        deck.hub.audit._store = real
        found = (await lines(deck))[before:]
        assert [line.call for line in found][:2] == ["POST /v1/nodes/{node}/drain"] * 2
        assert found[-1].call == "lost"
        assert found[-1].detail.startswith("2 lines")


async def test_a_token_that_was_made_valid_again_in_the_database_is_named_and_by_the_list_of_revocations_revoked() -> (
    None
):
    statement = "UPDATE tokens SET body = replace(body, '\"revoked\":true', '\"revoked\":false') WHERE id = '{token}'"
    async with data_folder() as data:
        async with running(data) as deck:
            token = await done(deck)
        listed = next(data.rglob("revoked.json"))
        raw(data, statement.format(token=token))
        async with running(data) as deck:
            assert (await verdict(deck))["ok"], "it is revoked again"
        raw(data, statement.format(token=token))
        listed.unlink()
        async with running(data) as deck:
            assert "(guest) was withdrawn, and is valid" in (await verdict(deck))["break"]["why"]
