"""`loradeck explain` against a real hub: what it says, and what it says where it does not know."""

from __future__ import annotations

import hashlib
import time

import httpx
from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode

from loradeck.artifacts.rows.ledger_rows import sealed
from loradeck.rules.serving.request_ids import request_id
from loradeck.schemas.answer_ledger import Explained, LedgerRow, SegmentHead
from loradeck.schemas.trace import Sample, Sampled


def test_an_answer_is_explained_and_one_that_is_not_there_is_said_to_be(
    desk: Desk, tenant: str, node: SmallNode
) -> None:
    now_ms = time.time_ns() // 1_000_000
    asked = request_id(now_ms, b"0123456789")
    row = LedgerRow(
        request=asked,
        route="production",
        release="a" * 64,
        generation=77,
        replica="e0",
        admitted_ms=now_ms,
        finished_ms=now_ms + 1234,
        status=200,
        checked=True,
        bad=True,
        parameters={"temperature": 0.5},
    )
    head = SegmentHead(node="lx", tenant=tenant, chain="c" * 32, seq=1, first_ms=now_ms, last_ms=now_ms, rows=1)
    made = sealed(head, [row.model_dump_json().encode()])
    out = desk.root / "lx.token"
    assert desk.run("token", "create", "--name", "lx", "--role", "agent", "--node", "lx", "--out", out).returncode == 0
    put = httpx.put(
        f"{desk.url}/v1/ledger/{tenant}/{hashlib.sha256(made).hexdigest()}",
        content=made,
        headers={"authorization": f"Bearer {out.read_text().strip()}"},
    )
    assert put.status_code == 200, put.text

    done = desk.run("explain", asked)

    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith(f"{tenant}/production   ")
    assert first.endswith("status 200   1,234 ms   bad")
    assert "  parameters temperature=0.5" in lines
    assert "  engine     e0 on lx" in lines
    assert f"  DOUBT      the log has no move that made generation 77 of {tenant}/production" in lines
    assert Explained.model_validate(desk.json("explain", asked, "--tenant", tenant)).rows[0].row == row
    done = desk.run("explain", "nothing", "--at", "2h ago")
    assert done.returncode == 1
    assert "does not have this request" in done.stderr


def test_a_tenant_says_for_how_long_its_ledger_is_kept(desk: Desk, tenant: str) -> None:
    assert "is kept for 400 days" in desk.run("tenant", "data", tenant).stdout
    assert "is kept not at all" in desk.run("tenant", "data", tenant, "--ledger-days", "0").stdout


def test_samples_of_bad_answers_are_read_once_a_tenant_has_them_kept(desk: Desk, tenant: str, node: SmallNode) -> None:
    assert "on nodes not at all" in desk.run("tenant", "data", tenant).stdout
    assert "--sample-hours" in desk.refused(1, "samples_not_kept", "route", "samples", tenant)["fix"]
    desk.refused(1, "reason_required", "tenant", "data", tenant, "--sample-hours", "24")
    agreed = desk.run("tenant", "data", tenant, "--reason", "they agreed", "--sample-hours")
    assert "on nodes for 24 hours" in agreed.stdout
    assert f"no samples of {tenant}/production" in desk.run("route", "samples", tenant).stdout
    live = desk.row(tenant).live
    assert live is not None
    said = {"request": "r1", "tenant": tenant, "route": "production", "release": live.id, "at_ms": 1, "fault": "empty"}
    hidden = "user: red \x1b[31m and\nturned \u202e round"
    node.samples = (Sample.model_validate({**said, "question": hidden, "answer": ""}),)

    done = desk.run("route", "samples", tenant, "--release", "v2")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "1970-01-01 00:00:00Z   v2   empty   n1   r1",
        "  asked    | user: red \N{SYMBOL FOR ESCAPE}[31m and",
        "  asked    | turned \N{REPLACEMENT CHARACTER} round",
        "  answered | ",
    ]
    assert Sampled.model_validate(desk.json("route", "samples", tenant)).rows[0].question == hidden
    viewer = desk.token("viewer")
    assert desk.run("route", "samples", tenant, "--hub", desk.url, "--token-file", viewer).returncode == 6
    node.samples, node.trouble = (), "its router does not answer"
    assert desk.refused(1, "unanswered", "route", "samples", tenant)["detail"] == "n1: its router does not answer"
