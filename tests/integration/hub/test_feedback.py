"""Feedback at a hub: it counts once the answer ledger has its request, and goes by the tenant's policy."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
from tests.fleets.linked.hub import Deck
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_answer_ledger import Node, now, row

from loradeck.hub.data import feedback as book
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.data.feedback import WAIT_MS
from loradeck.rules.serving.request_ids import request_id
from loradeck.schemas.audit import AuditDraft
from loradeck.store.interface import DiskFull

PATH = "tenants/acme/feedback"


def given(request: str, **fields: Any) -> dict[str, Any]:
    told = {"request": request, "kind": "thumb", "value": "down", "route": "production", "at_ms": now()}
    return told | {"caller": "c" * 16} | fields


async def give(deck: Deck, *rows: dict[str, Any], role: str = "agent", node: str = "n1") -> tuple[int, dict[str, Any]]:
    client = await deck.as_role(role, node if role == "agent" else None)
    answer = await client.post(PATH, json={"rows": rows})
    return answer.status_code, answer.json()


async def kept(deck: Deck, query: str = "") -> list[dict[str, Any]]:
    return list((await deck.ok("GET", f"{PATH}{query}", client=await deck.as_role("releaser")))["rows"])


@pytest.fixture
async def release(deck: Deck, join: Join) -> str:
    """acme's live release, where acme keeps feedback for 30 days."""
    await join("n1")
    await deck.tenant()
    made = await deck.release()
    await deck.promote(made)
    await allow(deck, 30)
    return made


async def allow(deck: Deck, days: int, **policy: Any) -> None:
    now_is = (await deck.ok("GET", "tenants/acme"))["data"]
    await deck.ok("PUT", "tenants/acme/data-policy?reason=asked", now_is | {"feedback_days": days} | policy)


async def test_feedback_waits_for_the_answer_ledger_and_then_names_what_answered(deck: Deck, release: str) -> None:
    node, asked = Node(deck), row(release, bad=True, fault="schema")
    assert await give(deck, given(asked.request)) == (200, {"kept": 1, "waiting": 1, "refused": []})
    assert await kept(deck) == []
    assert [one["request"] for one in await kept(deck, "?waiting=true")] == [asked.request]

    await node.put(node.segment(asked))
    await deck.hub.feedback.keep()

    (one,) = await kept(deck)
    assert (one["release"], one["generation"], one["tied"], one["bad"]) == (release, 1, "ledger", True)
    assert await kept(deck, "?waiting=true") == []


async def test_a_forged_id_is_dropped_after_a_day(deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await give(deck, given("never-asked"))
    await deck.hub.feedback.keep()
    assert len(await kept(deck, "?waiting=true")) == 1
    later = now() + WAIT_MS + 1
    monkeypatch.setattr(deck.hub.clock, "now_ms", lambda: later)
    await deck.hub.feedback.keep()
    assert await kept(deck, "?waiting=true") == []
    assert await kept(deck) == []


async def test_another_tenants_request_vouches_for_nothing(deck: Deck, release: str) -> None:
    await deck.ok("POST", "tenants", {"name": "bolt"})
    node, asked = Node(deck, tenant="bolt"), row(release)
    await node.put(node.segment(asked))
    assert (await give(deck, given(asked.request)))[1]["waiting"] == 1


async def test_personal_data_is_taken_out_before_anything_is_kept(deck: Deck, release: str) -> None:
    node, asked = Node(deck), row(release)
    await node.put(node.segment(asked))
    text = "Write to jo@example.org or call +44 20 7946 0958, card 4111 1111 1111 1111."
    await give(deck, given(asked.request, kind="correction", value="", text=text))
    (one,) = await kept(deck)
    assert one["text"] == "Write to [e-mail] or call [number], card [number]."
    assert one["redacted"] is True


async def test_no_move_waits_for_personal_data_to_be_taken_out(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, redacted = set[int](), book.redacted
    monkeypatch.setattr(book, "redacted", lambda text: (threads.add(threading.get_ident()), redacted(text))[1])
    await give(deck, given("r-1"))
    assert threads
    assert threading.get_ident() not in threads


async def test_saying_it_again_replaces_what_the_same_caller_said(deck: Deck, release: str) -> None:
    node, asked = Node(deck), row(release)
    await node.put(node.segment(asked))
    for value in ("down", "up", "up"):
        await give(deck, given(asked.request, value=value))
    await give(deck, given(asked.request, value="down", caller="d" * 16))
    assert sorted((one["caller"][0], one["value"]) for one in await kept(deck)) == [("c", "up"), ("d", "down")]


async def test_a_tenant_that_keeps_none_is_given_none_and_a_shorter_policy_removes(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, asked = Node(deck), row(release)
    await node.put(node.segment(asked))
    await give(deck, given(asked.request))
    later = now() + 3 * DAY_MS
    monkeypatch.setattr(deck.hub.clock, "now_ms", lambda: later)
    await deck.hub.feedback.keep()
    assert len(await kept(deck)) == 1
    await allow(deck, 2)
    await deck.hub.feedback.keep()
    assert await kept(deck) == []
    await allow(deck, 0)
    status, problem = await give(deck, given(asked.request))
    assert (status, problem["code"]) == (409, "feedback_off")


async def test_an_offboarded_tenants_feedback_goes(deck: Deck, release: str) -> None:
    node, asked = Node(deck), row(release)
    await node.put(node.segment(asked))
    await give(deck, given(asked.request))
    await deck.ok("POST", "tenants/acme/offboard?reason=left")
    await deck.hub.feedback.keep()
    assert await kept(deck) == []


async def test_without_a_ledger_the_routers_memory_vouches(deck: Deck, release: str) -> None:
    await allow(deck, 30, ledger_days=0)
    assert (await give(deck, given("r-1", release=release)))[1] == {"kept": 1, "waiting": 0, "refused": []}
    assert [(one["request"], one["tied"]) for one in await kept(deck)] == [("r-1", "router")]
    assert (await give(deck, given("r-2")))[1]["refused"][0][0] == "r-2"


async def test_only_nodes_that_serve_the_tenant_and_releasers_bring_feedback_and_only_releasers_read_it(
    deck: Deck, release: str, join: Join
) -> None:
    await deck.tenant(placement={"pool": "none"})
    await join("n9")
    assert (await give(deck, given("r-1"), node="n9"))[0] == 403
    for role in ("viewer", "operator"):
        assert (await give(deck, given("r-1"), role=role))[0] == 403
        assert (await (await deck.as_role(role)).get(PATH)).status_code == 403
    assert (await (await deck.as_role("agent", "n1")).get(PATH)).status_code == 403
    assert (await give(deck, given("r-1"), role="releaser"))[0] == 200


async def test_each_reading_is_in_the_audit_trail(deck: Deck, release: str) -> None:
    await kept(deck)
    await deck.hub.audit.flush()
    lines = await deck.ok("GET", "audit?limit=50")
    assert any("GET /v1/tenants/{tenant}/feedback" in str(line) for line in lines if "acme" in str(line))


async def test_who_imports_is_in_the_audit_trail_and_callers_do_not_make_it_grow(deck: Deck, release: str) -> None:
    await give(deck, given("r-1"))
    await give(deck, given("r-2"), role="releaser")
    await deck.hub.audit.flush()
    lines = [
        line for line in await deck.ok("GET", "audit?limit=50") if "POST /v1/tenants/{tenant}/feedback" in str(line)
    ]
    assert [line["role"] for line in lines] == ["releaser"]


async def test_nothing_is_read_that_cannot_be_audited(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give(deck, given("r-1"))
    releaser = await deck.as_role("releaser")

    async def full(_: AuditDraft) -> int:
        raise DiskFull("the disk is full")

    monkeypatch.setattr(deck.hub.audit, "write", full)
    answer = await releaser.get(PATH, params={"waiting": True})
    assert (answer.status_code, "r-1" in answer.text) == (507, False)


async def test_an_imported_request_that_is_too_old_to_come_is_refused_by_its_id(deck: Deck, release: str) -> None:
    old = request_id(now() - 3 * DAY_MS, b"0123456789")
    _, answer = await give(deck, given(old), role="releaser")
    assert answer == {"kept": 0, "waiting": 0, "refused": [[old, "the answer ledger has no such request"]]}


async def test_malformed_rows_are_refused_one_by_one(deck: Deck, release: str) -> None:
    rows = (given("r-1", value="sideways"), given("r-2", route="nowhere"), given("r-3", at_ms=0), given("r-4"))
    _, answer = await give(deck, *rows)
    assert [request for request, _ in answer["refused"]] == ["r-1", "r-2", "r-3"]
    assert answer["kept"] == 1


async def test_a_tenant_gives_so_much_in_an_hour(deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "HOUR_ROWS", 2)
    await give(deck, given("r-1"), given("r-2"))
    status, problem = await give(deck, given("r-3"))
    assert (status, problem["code"]) == (429, "feedback_full")


async def test_feedback_is_erased_by_its_words_and_by_its_request(deck: Deck, release: str) -> None:
    node, rows = Node(deck), [row(release, f"r-{i}") for i in range(3)]
    await node.put(node.segment(*rows))
    await give(deck, given("r-0", kind="correction", value="", text="Ask Mrs. Miller"), given("r-1"), given("r-2"))
    await give(deck, given("never", kind="label", value="miller"))
    releaser = await deck.as_role("releaser")
    assert await deck.ok("POST", f"{PATH}/erase", {"containing": "MILLER"}, client=releaser) == {"removed": 2}
    assert await deck.ok("POST", f"{PATH}/erase", {"request": "r-2"}, client=releaser) == {"removed": 1}
    assert [one["request"] for one in await kept(deck)] == ["r-1"]
    attested = await deck.ok("GET", "attestations?kind=withdrawn&tenant=acme", client=releaser)
    named = [request for one in attested for _, request in one["body"]["requests"]]
    assert (sorted(named), {one["by"] for one in attested} & {""}) == (["never", "r-0", "r-2"], set())
    assert not any("iller" in str(one) for one in attested), "what was said is kept nowhere"
    assert (await releaser.post(f"{PATH}/erase", json={})).status_code == 422


async def test_forged_ids_of_long_ago_do_not_hide_what_was_answered_now(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "SEGMENTS", 1)
    node, old, new = Node(deck), row(release, admitted_ms=now() - 5 * DAY_MS), row(release)
    for one in (old, new):
        await node.put(node.segment(one))
    forged = request_id(now() - 5 * DAY_MS, b"9876543210")
    assert (await give(deck, given(forged), given(new.request)))[1] == {"kept": 2, "waiting": 1, "refused": []}
    assert [one["request"] for one in await kept(deck)] == [new.request]


async def test_however_much_waits_all_of_it_is_looked_for(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "WAITING", 1)
    node, asked = Node(deck), row(release)
    await give(deck, given("forged-1"), given("forged-2"), given(asked.request))
    await node.put(node.segment(asked))
    await deck.hub.feedback.keep()
    assert [one["request"] for one in await kept(deck)] == [asked.request]
    assert len(await kept(deck, "?waiting=true")) == 2


async def test_so_much_of_a_tenant_waits_and_no_more(deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "TENANT_WAITING", 2)
    await give(deck, given("forged-1"), given("forged-2"))
    status, problem = await give(deck, given("forged-3"))
    assert (status, problem["code"]) == (429, "feedback_full")
    later = now() + WAIT_MS + 1
    monkeypatch.setattr(deck.hub.clock, "now_ms", lambda: later)
    await deck.hub.feedback.keep()
    assert (await give(deck, given("forged-3", at_ms=later)))[0] == 200


async def test_a_node_cannot_pass_off_feedback_as_imported(deck: Deck, release: str) -> None:
    node, asked = Node(deck), row(release)
    await node.put(node.segment(asked))
    await give(deck, given(asked.request, value="up"), role="releaser")
    _, answer = await give(deck, given(asked.request, caller=""))
    assert answer == {"kept": 0, "waiting": 0, "refused": [[asked.request, "a node says whose feedback it is"]]}
    assert [(one["value"], one["caller"]) for one in await kept(deck)] == [("up", "")]


async def test_a_release_that_callers_correct_more_than_is_promised_reads_drift_and_each_caller_counts_once_a_minute(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await join("n1")
    await deck.tenant(objectives={"corrected": 0.1})
    release = await deck.release()
    await deck.promote(release)
    await allow(deck, 30)
    counted = dict.fromkeys(("attempted", "admitted", "finished"), 60)
    await agent.report(agent.served().model_copy(update={"release": release, **counted}))
    node, rows = Node(deck), [row(release, f"r-{i}") for i in range(60)]
    await node.put(node.segment(*rows))
    at = now()
    monkeypatch.setattr(deck.hub.clock, "now_ms", lambda: at)  # all within one minute
    for i in range(60):  # one caller who is not content with anything
        await give(deck, given(f"r-{i}"))
    assert "DRIFT" not in (await deck.row()).flags
    await give(deck, *(given(f"r-{i}", caller=f"{i:016x}") for i in range(60)))
    found = await deck.row()
    assert ("DRIFT" in found.flags, found.drift, found.guard) == (True, ("corrected 100.0% of 61, by n1 alone",), "")


async def test_what_a_caller_repeats_of_one_answer_counts_once_however_late(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(deck.hub.votes, "add_feedback", lambda key, stint, node, corrected: counted.append(stint[1]))
    node, rows = Node(deck), [row(release, "r-1"), row(release, "r-2")]
    await node.put(node.segment(*rows))
    for minute, request in enumerate(("r-1", "r-1", "r-2")):
        monkeypatch.setattr(deck.hub.clock, "now_ms", partial(int, now() + 120_000 * minute))
        await give(deck, given(request))
    assert counted == [release] * 2
