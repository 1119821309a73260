"""Requests thought up from the hub's OpenAPI document, by role: those that fit it, and those that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.fleets.processes.hub import HubProcess

ROLES = ("nobody", "viewer", "operator", "releaser", "agent", "local")

_KNOWN = {"tenant": "acme", "route": "production", "node": "n1", "name": "support"}
"""What is there, so that half of the calls get past the names."""

STRANGE = (10**23, -(10**23), 2**63, 1.5e308, float("nan"), "\0", "\ud800", "a" * 100_000, [[]], {})
"""Values that no schema names as such, and that are seldom thought up."""

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

_WRITES_FILES = "/v1/backup"

_FRAMING = ("Content-Length", "Transfer-Encoding", "Connection", "Host")
"""Headers that say where a request ends: the client sends none that is wrong. Raw bytes are sent by other tests."""


@contextmanager
def client_of(hub: HubProcess, role: str) -> Iterator[httpx.Client]:
    """A client with a token of this role; `nobody` has none, and `local` comes over the hub's own socket."""
    if role == "local":
        transport = httpx.HTTPTransport(uds=str(hub.data / "hub.sock"))
        with httpx.Client(transport=transport, base_url="http://hub", timeout=30) as client:
            yield client
        return
    headers = {} if role == "nobody" else {"authorization": f"Bearer {hub.token(role)}"}
    with httpx.Client(base_url=hub.url, headers=headers, timeout=30) as client:
        yield client


def answers_are_documented(hub: HubProcess, role: str, cases: int) -> None:
    """Sends that many requests and checks every answer: no server error, and a status and a body of the document."""
    with client_of(hub, "viewer") as viewer:
        schema = schemathesis.openapi.from_dict(viewer.get("/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations()]
    if role == "local":
        operations = [operation for operation in operations if operation.path != _WRITES_FILES]
    ways = st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    tried = st.tuples(st.sampled_from(operations), ways).flatmap(lambda chosen: chosen[0].as_strategy(chosen[1]))

    wrong: dict[str, str] = {}
    with client_of(hub, role) as client:

        @settings(
            max_examples=cases,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=tried, known=st.booleans(), at=st.integers(0, 20), strange=st.none() | st.sampled_from(STRANGE))
        def check(case: Case, known: bool, at: int, strange: object) -> None:
            if known and isinstance(case.path_parameters, dict):
                case.path_parameters.update({k: v for k, v in _KNOWN.items() if k in case.path_parameters})
            answer = client.request(**_sent(case, str(client.base_url), at, strange))
            try:
                case.validate_response(answer, checks=CHECKS)
            except FailureGroup as group:
                for failure in group.exceptions:
                    wrong.setdefault(f"{case.method} {case.path} {answer.status_code} {failure.title}", str(group))

        check()
    failures = "\n\n".join(f"{what}\n{detail}" for what, detail in wrong.items())
    assert not wrong, failures + "\n\nThe hub printed:\n" + hub.log()[-20_000:]


def _sent(case: Case, base: str, at: int, strange: object) -> dict[str, object]:
    """What the client sends of a case, with a strange value in one field of its body."""
    made = case.as_transport_kwargs(base_url=base)
    for name in ("Authorization", *_FRAMING):  # it has thought some up, and the client has its own
        for header in [header for header in made["headers"] if header.lower() == name.lower()]:
            del made["headers"][header]
    body = made.pop("json", None)
    if body is not None:
        if strange is not None and isinstance(body, dict) and body:
            body = {**body, sorted(body)[at % len(body)]: strange}
        made["content"] = json.dumps(body)  # the client would refuse what is no text
        made["headers"].setdefault("Content-Type", "application/json")
    return {k: v for k, v in made.items() if k in ("method", "url", "headers", "params", "data", "content")}
