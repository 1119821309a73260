"""Values that no program would send: they are refused as what they are, and never the hub's own failure."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.fleets.linked.hub import PROVENANCE, Deck
from tests.fleets.waiting import PATIENCE_S
from websockets.asyncio.client import connect

from loradeck.schemas.manifest import DatasetManifest

HUGE = 10**23
ROLLBACK = "tenants/acme/routes/production/rollback"
JSON = {"content-type": "application/json"}
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"events?before={HUGE}", None),
        ("GET", f"jobs/j1/events?attempt={HUGE}", None),
        ("GET", f"jobs/j1/events?seq={HUGE}", None),
        ("GET", f"tenants/acme/routes/production/traces?last={HUGE}", None),
        ("POST", "rewind", {"time_ms": 10**26, "reason": "x", "idempotency_key": "k" * 12}),
        ("POST", "rewind", {"to_rev": HUGE, "reason": "x", "idempotency_key": "k" * 12}),
        ("POST", ROLLBACK, {"expected_generation": HUGE, "idempotency_key": "k" * 12}),
        ("POST", ROLLBACK, {"expected_generation": -HUGE, "idempotency_key": "k" * 12}),
    ],
)
async def test_a_huge_number_is_the_requests_fault(deck: Deck, method: str, path: str, body: Any) -> None:
    """The attack: `events?before=10**23`, a rewind to `time_ms` 10**26 and R on generation -10**23, which were
    answered 500. R on generation -10**9 made a list of as many numbers before it was refused.
    """
    before = deck.fingerprint()
    answer = await deck.local.request(method, path, json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert deck.fingerprint() == before


@pytest.mark.parametrize("string", ["\0", "\ud800", "a\0" * 8, "\udfff\ud800" * 8])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("undo", "event"),
        ("undo", "idempotency_key"),
        ("tenants/acme/routes/production/annotate", "event"),
        ("tenants/acme/routes/production/hold", "reason"),
    ],
)
async def test_what_is_no_text_is_the_requests_fault(deck: Deck, path: str, field: str, string: str) -> None:
    """The attack: an event of half a surrogate pair, which no database keeps, and of NUL, which PostgreSQL does not."""
    before = deck.fingerprint()
    answer = await deck.local.post(path, content=json.dumps({field: string}), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "surrogate pair" in answer.json()["title"]
    assert deck.fingerprint() == before


@pytest.mark.parametrize("path", ["moves/%00abcdefgh", "events?tenant=%00", "jobs/%00", "attestations?subject=a%00"])
async def test_nul_in_an_address_is_the_requests_fault(deck: Deck, path: str) -> None:
    answer = await deck.local.get(path)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_what_only_looks_as_if_it_were_no_text_is_taken(deck: Deck) -> None:
    body = {"event": "\\u0000 \U0001f600", "idempotency_key": "k" * 12}
    answer = await deck.local.post("undo", content=json.dumps(body), headers=JSON)
    assert answer.json()["code"] == "unknown_event"


@pytest.mark.parametrize("path", ["rewind", "tenants", "jobs", "attestations"])
async def test_json_nested_deep_is_the_requests_fault(deck: Deck, path: str) -> None:
    answer = await deck.local.post(path, content=DEEP, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.parametrize("deep", [DEEP, DEEP[99_100:100_900]], ids=["100,000", "900"])
async def test_a_row_nested_deep_is_the_datasets_fault(deck: Deck, deep: str) -> None:
    """The second is not too deep for the JSON parser, but for whoever walks through it."""
    entry = await deck.blob(f'{{"prompt": {deep}, "answer": "a"}}\n'.encode())
    manifest = DatasetManifest(tenant="acme", name="deep", rows=1, files=(entry,), provenance=PROVENANCE)
    await deck.refused(422, "bad_rows", "POST", "datasets", manifest.model_dump(mode="json"))


async def test_a_safetensors_header_nested_deep_is_the_adapters_fault(deck: Deck) -> None:
    await deck.base()
    manifest = await deck.adapter_manifest()
    weights = (len(DEEP)).to_bytes(8, "little") + DEEP.encode()
    deep = (await deck.blob(weights)).model_copy(update={"path": "adapter_model.safetensors"})
    files = tuple(deep if file.path == deep.path else file for file in manifest.files)
    body = json.loads(manifest.model_copy(update={"files": files}).model_dump_json())
    await deck.refused(422, "bad_safetensors", "POST", "adapters/acme/support/versions", body)


async def test_a_feeds_long_cursor_is_as_one_that_is_too_old(deck: Deck, caplog: pytest.LogCaptureFixture) -> None:
    """The attack: a cursor of 5,000 digits, which ended in a traceback."""
    headers = {"authorization": f"Bearer {await deck.token('viewer')}"}
    for since in (f"1:{'9' * 5000}", f"{'9' * 5000}:1", "1:²"):
        url = f"ws://127.0.0.1:{deck.port}/v1/feed?since={since}"
        async with connect(url, additional_headers=headers) as socket:
            assert json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_S))["type"] == "reset"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
