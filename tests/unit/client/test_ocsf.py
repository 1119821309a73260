"""Lines of the audit trail in OCSF: what the schema requires is there, and a line can be checked by its own text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loradeck.client.ocsf import SCHEMA, event
from loradeck.schemas.audit import AuditLine
from loradeck.schemas.ids import Role, canonical_json

EVENT = {"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}
REQUIRED = {6003: EVENT | {"actor", "api", "src_endpoint"}, 3002: EVENT | {"user", "service"}}
"""Attributes that OCSF 1.8.0 requires, by class; of a login the user, and a service or an endpoint."""


def line(call: str, **more: Any) -> AuditLine:
    return AuditLine(**{"actor": "ann", "call": call, "seq": 7, "at_ms": 1_790_000_000_123, **more})


LINES = [
    line(
        "POST /v1/tenants/{tenant}/routes/{route}/rollback", status=200, role=Role.OPERATOR, subject={"tenant": "acme"}
    ),
    line("PUT /v1/tenants/{tenant}/quota", status=403, token="t1"),
    line("GET /v1/tenants/{tenant}/feedback", status=200),
    line("DELETE /v1/tokens/{token_id}", status=204),
    line("login", actor="", status=401, detail="5 from 10.0.0.9"),
    line("break-glass", detail="the other system is down"),
    line("begin", actor="hub", subject={"tokens": "t1 t2"}),
]


@pytest.mark.parametrize("said", LINES, ids=lambda said: said.call.split(" ")[0])
def test_each_event_has_what_its_class_requires_and_the_lines_own_text(said: AuditLine) -> None:
    made = event(said, "eu-1")
    assert REQUIRED[made["class_uid"]] <= made.keys()
    assert made["metadata"]["version"] == SCHEMA
    assert made["metadata"]["product"]["name"] == "Loradeck"
    assert made["type_uid"] == made["class_uid"] * 100 + made["activity_id"]
    assert made["category_uid"] == made["class_uid"] // 1000
    assert made["raw_data"].encode() == canonical_json(said)
    assert AuditLine.model_validate_json(made["raw_data"]) == said
    assert json.loads(json.dumps(made)) == made


def test_class_activity_outcome_and_severity_follow_from_the_call() -> None:
    found = [(m["type_uid"], m["status_id"], m["severity_id"]) for m in (event(said, "eu-1") for said in LINES)]
    assert found == [
        (600301, 1, 1), (600303, 2, 2), (600302, 1, 1), (600304, 1, 1), (300201, 2, 3), (600399, 0, 3), (600399, 0, 1),
    ]  # fmt: skip


def test_who_is_named_with_the_token_and_nobody_as_unknown() -> None:
    assert event(LINES[1], "eu-1")["actor"] == {"user": {"name": "ann", "uid": "t1"}}
    assert event(LINES[4], "eu-1")["user"] == {"name": "unknown"}
