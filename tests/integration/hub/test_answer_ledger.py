"""The answer ledger at a hub: what nodes send is kept, proven and explained, and goes when its tenant's policy says."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fleets.linked.hub import Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.artifacts.rows.ledger_rows import sealed
from loradeck.hub.data import answer_ledger
from loradeck.hub.views import explained
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.serving.request_ids import request_id
from loradeck.schemas.answer_ledger import Explained, LedgerRow, SegmentHead
from loradeck.schemas.ids import GENESIS
from loradeck.schemas.trace import TraceRow
from loradeck_agent.host.identity import Login
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.router.ledger_files import LedgerFiles
from loradeck_agent.router.trace import Row
from loradeck_agent.uplink.hub_api import HubApi
from loradeck_agent.uplink.router_files import LedgerSegments

CHAIN = "c" * 32


def now() -> int:
    return time.time_ns() // 1_000_000


class Node:
    """A node's chain of segments for one tenant, and its calls to the hub."""

    def __init__(self, deck: Deck, name: str = "n1", tenant: str = "acme") -> None:
        self.deck, self.name, self.tenant = deck, name, tenant
        self.seq, self.prev = 0, GENESIS

    def segment(self, *rows: LedgerRow, **fields: Any) -> bytes:
        self.seq += 1
        told = {
            "node": self.name,
            "tenant": self.tenant,
            "chain": CHAIN,
            "seq": self.seq,
            "prev": self.prev,
            "first_ms": min(row.admitted_ms for row in rows),
            "last_ms": max(row.admitted_ms for row in rows),
            "rows": len(rows),
            "builds": {"n1/e0": "fake|cpu|float32|tp1"},
        }
        made = sealed(SegmentHead.model_validate(told | fields), [row.model_dump_json().encode() for row in rows])
        self.prev = hashlib.sha256(made).hexdigest()
        return made

    async def put(self, made: bytes, tenant: str | None = None, role: str = "agent") -> tuple[int, dict[str, Any]]:
        client = await self.deck.as_role(role, self.name if role == "agent" else None)
        path = f"ledger/{tenant or self.tenant}/{hashlib.sha256(made).hexdigest()}"
        answer = await client.put(path, content=made)
        return answer.status_code, answer.json()


def row(release: str, request: str | None = None, **fields: Any) -> LedgerRow:
    at_ms = fields.pop("admitted_ms", now())
    told = {
        "request": request or request_id(at_ms, b"0123456789"),
        "route": "production",
        "release": release,
        "epoch": 1,
        "generation": 1,
        "replica": "n1/e0",
        "admitted_ms": at_ms,
        "finished_ms": at_ms + 5,
        "status": 200,
        "checked": True,
        "parameters": {"temperature": 0.5},
    }
    return LedgerRow.model_validate(told | fields)


async def explain(deck: Deck, request: str, query: str = "", role: str | None = None) -> Explained:
    client = await deck.as_role(role) if role else None
    return Explained.model_validate(await deck.ok("GET", f"requests/{request}{query}", client=client))


@pytest.fixture
async def release(deck: Deck, join: Join) -> str:
    """acme's live release, which a releaser put there at generation 1."""
    await join("n1")
    await deck.tenant()
    made = await deck.release()
    await deck.promote(made, reason="ticket 7")
    return made


async def test_an_answer_is_explained_from_its_id_alone_with_its_proof(deck: Deck, release: str) -> None:
    node, asked = Node(deck), row(release)
    assert await node.put(node.segment(row(release, "r-1"), asked)) == (200, {"kept": True})
    assert (await node.put(node.segment(row(release, "r-2"))))[0] == 200
    await deck.hub.ledger.keep()

    found = await explain(deck, asked.request, role="viewer")

    (one,) = found.rows
    assert one.row == asked
    assert (one.tenant, one.node, one.build) == ("acme", "n1", "fake|cpu|float32|tp1")
    assert (one.weights.release, one.weights.label, one.weights.form) == (release, "v1", "adapter")
    assert one.weights.base is not None
    assert one.weights.base.name == "B1 tiny 1"
    assert one.weights.adapter is not None
    assert one.weights.adapter.name == "acme/support v1"
    assert one.put_there is not None
    assert (one.put_there.kind, one.put_there.reason) == ("promote", "ticket 7")
    assert one.doubts == ()
    assert len(one.proven) == 4
    assert found.searched == 2
    assert (await deck.ok("GET", "audit/verify"))["ok"]


async def test_it_is_explained_after_the_node_is_gone_and_the_pointer_has_moved_on(
    deck: Deck, release: str, join: Join
) -> None:
    node, asked = Node(deck), row(release)
    await node.put(node.segment(asked))
    await deck.promote(await deck.release(seed=2))
    await deck.rollback()
    agent = deck.hub.fleet.nodes["n1"]
    assert agent.link is not None
    agent.link.revoked()

    (one,) = (await explain(deck, asked.request)).rows

    assert one.put_there is not None
    assert (one.put_there.kind, one.weights.label) == ("promote", "v1")


async def test_a_request_whose_id_has_no_time_is_found_by_the_time_that_is_said(deck: Deck, release: str) -> None:
    old = now() - 30 * DAY_MS
    node = Node(deck)
    await node.put(node.segment(row(release, "order-7", admitted_ms=old)))

    assert (await explain(deck, "order-7")).rows == ()
    found = await explain(deck, "order-7", f"?tenant=acme&at_ms={old + 60_000}")
    assert [one.row.request for one in found.rows] == ["order-7"]


async def test_a_row_that_the_log_does_not_bear_out_is_doubted(deck: Deck, release: str) -> None:
    node = Node(deck)
    other = await deck.release(seed=2)
    rows = row(other), row(release, "r-9", generation=9), row(deck.hub.catalogue.base_alone_id("acme", "f" * 64), "r-3")
    await node.put(node.segment(*rows))
    await deck.hub.ledger.keep()

    doubts = {one.row.request: one.doubts for r in rows for one in (await explain(deck, r.request)).rows}

    assert "its word is wrong" in doubts[rows[0].request][0]
    assert doubts["r-9"] == ("the log has no move that made generation 9 of acme/production",)
    assert doubts["r-3"] != ()


async def test_a_gap_in_a_chain_and_a_file_that_was_changed_are_said(deck: Deck, release: str) -> None:
    node, asked = Node(deck), row(release)
    await node.put(node.segment(asked))
    node.segment(row(release))  # never sent
    await node.put(node.segment(row(release, "r-3")))

    (one,) = (await explain(deck, asked.request)).rows
    assert one.doubts[0] == "segments 2 to 2 of the chain never came, or were removed"
    assert "not anchored" in one.doubts[1]

    assert one.segment is not None
    path = deck.data / "artifacts" / one.segment.sha256[:2] / one.segment.sha256
    changed = Node(deck).segment(asked, row(release, "forged"))
    path.chmod(0o600)
    path.write_bytes(changed)
    found = await explain(deck, asked.request)
    assert found.rows == ()
    assert "is not what the node sent" in found.unread[0]


async def test_a_node_sends_for_itself_alone_and_within_bounds(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, other = Node(deck), Node(deck, "n2")
    made = node.segment(row(release))

    assert (await other.put(made))[1]["code"] == "bad_segment"
    assert (await node.put(made, tenant="globex"))[1]["code"] == "unknown_tenant"
    assert (await node.put(made, role="releaser"))[1]["code"] == "forbidden"
    assert (await node.put(made, role="operator"))[0] == 403
    assert (await node.put(b"no segment"))[1]["code"] == "bad_segment"
    late = Node(deck).segment(row(release, admitted_ms=now() + 2 * DAY_MS))
    assert (await node.put(late))[1]["code"] == "bad_segment"
    monkeypatch.setattr(answer_ledger, "NODE_BYTES", len(made) + 1)
    assert await node.put(made) == (200, {"kept": True})
    status, problem = await node.put(node.segment(row(release, "r-2")))
    assert (status, problem["code"]) == (429, "ledger_full")


@pytest.mark.parametrize("bound", ["NODE_SEGMENTS", "TENANT_SEGMENTS"])
async def test_a_node_sends_no_more_small_segments_than_it_could_have_sealed(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Or one node could have every question about a tenant's answers refused, and the anchors of others wait."""
    monkeypatch.setattr(answer_ledger, bound, 2)
    node, others = Node(deck), Node(deck, "n2")
    for name in ("r-1", "r-2"):
        assert await node.put(node.segment(row(release, name))) == (200, {"kept": True})

    status, problem = await node.put(node.segment(row(release, "r-3")))

    assert (status, problem["code"]) == (429, "ledger_full")
    assert await others.put(others.segment(row(release))) == (200, {"kept": True})


async def test_all_that_has_come_is_anchored_in_one_round(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_ledger, "LEAVES", 2)
    node, asked = Node(deck), [row(release, f"r-{n}") for n in range(5)]
    for one in asked:
        await node.put(node.segment(one))

    await deck.hub.ledger.keep()

    (found,) = (await explain(deck, "r-4")).rows
    assert found.doubts == ()


async def test_a_segment_that_comes_again_is_one(deck: Deck, release: str) -> None:
    node, asked = Node(deck), row(release)
    made = node.segment(asked)
    await node.put(made)
    await deck.hub.ledger.keep()
    await node.put(made)

    (one,) = (await explain(deck, asked.request)).rows
    assert one.doubts == ()
    lines = await deck.ok("GET", "audit")
    assert [line["call"] for line in lines if "ledger" in line["call"]] == ["ledger"]


async def test_what_a_policy_does_not_keep_goes_and_so_does_what_an_offboarded_tenant_had(
    deck: Deck, release: str
) -> None:
    node, old = Node(deck), now() - 10 * DAY_MS
    asked, older = row(release), row(release, admitted_ms=old)
    await node.put(node.segment(older))
    await node.put(node.segment(asked))
    policy = await deck.ok("GET", "tenants/acme")
    assert policy["data"].get("ledger_days") is None, "a default is left out of what is logged"
    await deck.ok("PUT", "tenants/acme/data-policy", {"ledger_days": 7})

    await deck.hub.ledger.keep()

    assert (await explain(deck, older.request)).rows == ()
    (one,) = (await explain(deck, asked.request)).rows
    assert one.doubts == (), "a chain whose beginning has gone by policy is whole"
    assert (await node.put(node.segment(older)))[1] == {"kept": False}

    await deck.ok("POST", "tenants/acme/offboard", {"reason": "gone"})
    await deck.hub.ledger.keep()
    assert (await explain(deck, asked.request)).searched == 0
    assert one.segment is not None
    assert not (deck.data / "artifacts" / one.segment.sha256[:2] / one.segment.sha256).exists()
    assert (await node.put(node.segment(asked)))[1] == {"kept": False}


async def test_nobody_is_told_of_another_tenants_requests(deck: Deck, release: str) -> None:
    node, asked = Node(deck), row(release)
    await node.put(node.segment(asked))
    await deck.tenant("globex")
    client = await deck.client_of("viewer", "globex")

    answer = (await client.get(f"requests/{asked.request}")).json()
    assert (answer["rows"], answer["searched"]) == ([], 0)
    assert (await client.get(f"requests/{asked.request}?tenant=acme")).status_code == 403


async def test_a_search_over_too_many_segments_is_refused_with_what_to_say(
    deck: Deck, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explained, "SEARCHED", 1)
    node = Node(deck)
    for name in ("r-1", "r-2"):
        await node.put(node.segment(row(release, name)))

    problem = await deck.refused(409, "too_many_segments", "GET", "requests/r-1")
    assert "tenant" in problem.fix


async def test_what_the_ledger_does_not_have_yet_is_asked_of_the_routers(deck: Deck, join: Join) -> None:
    agent = await join("n1")
    await deck.tenant()
    release = await deck.release()
    await deck.promote(release)
    at_ms = now()
    asked = request_id(at_ms, b"0123456789")
    agent.traced = tuple(
        TraceRow(
            seq=n,
            request=request,
            tenant="acme",
            route="production",
            release=release,
            generation=1,
            replica="n1",
            admitted_mono_ns=n,
            admitted_ms=at_ms,
            finished_ms=at_ms + 9,
            status=200,
        )
        for n, request in enumerate(("other", asked), start=1)
    )
    await until(lambda: deck.hub.fleet.nodes["n1"].link, "n1 is linked")

    (one,) = (await explain(deck, asked)).rows

    assert (one.row.request, one.segment, one.weights.label) == (asked, None, "v1")
    assert "from its memory" in one.doubts[0]


async def test_what_a_router_wrote_is_sealed_sent_and_explained(deck: Deck, release: str, tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.make()
    token = await deck.token("agent", "n1")
    hub = HubApi(SimpleNamespace(hub=f"http://127.0.0.1:{deck.port}"), lambda: login)  # type: ignore[arg-type]
    login = Login.of_token(token)
    segments = LedgerSegments(folder, hub, "n1", dict)
    at_ms = now()
    requests = [request_id(at_ms + n, b"0123456789") for n in range(3)]
    for request in requests:
        files = LedgerFiles(folder.ledger_rows, request)
        files.add(
            Row(
                request=request,
                tenant="acme",
                route="production",
                release=release,
                generation=1,
                replica="n1/e0",
                streamed=False,
                admitted_ns=10**9,
                admitted_ms=at_ms,
                finished_ns=2 * 10**9,
                status=200,
            )
        )
        await files.close()
        segments.seal()
    await segments.send()
    hub.close()
    await deck.hub.ledger.keep()

    for request in requests:
        (one,) = (await explain(deck, request)).rows
        assert one.doubts == ()
        assert one.row.finished_ms == at_ms + 1000
    assert list(folder.ledger.glob("*.segment")) == []
