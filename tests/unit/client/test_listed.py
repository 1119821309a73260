"""The state, read row by row: the same rows, and the same refusal of what is no state."""

from __future__ import annotations

import json

import pytest
from tests.fakes import console_fleet as seed

from loradeck.client.errors import NotUnderstood
from loradeck.client.state_list import listed

STATE = seed.hub_state()
BODY = STATE.model_dump_json()


def test_what_is_listed_is_what_was_sent() -> None:
    found = listed(BODY.encode(), "here")
    assert (len(found.tenants), len(found.nodes)) == (len(STATE.tenants), len(STATE.nodes))
    assert tuple(found.tenants) == STATE.tenants
    assert tuple(found.nodes) == STATE.nodes
    assert (found.status, found.me, found.jobs, found.events) == (STATE.status, STATE.me, STATE.jobs, STATE.events)


def test_order_blanks_and_parts_of_a_newer_hub_do_not_matter() -> None:
    document = json.loads(BODY)
    turned = {"weather": [{"sky": "blue"}], **dict(reversed(document.items()))}
    found = listed(json.dumps(turned, indent=2, ensure_ascii=False).encode(), "here")
    assert tuple(found.tenants) == STATE.tenants
    assert found.events == STATE.events


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"<html>",
        b'{"status": 1}',
        b"\xff",
        BODY[:-1].encode(),
        BODY[: len(BODY) // 2].encode(),
    ],
)
def test_what_is_no_state_is_not_understood(body: bytes) -> None:
    with pytest.raises(NotUnderstood, match="not understood"):
        listed(body, "here")


def test_a_row_that_is_no_row_is_named_when_it_is_read() -> None:
    document = json.loads(BODY)
    document["tenants"][3]["placed"] = "many"
    found = listed(json.dumps(document).encode(), "here")
    with pytest.raises(NotUnderstood) as error:
        tuple(found.tenants)
    assert "placed" in error.value.detail
