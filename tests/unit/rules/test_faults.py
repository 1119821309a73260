"""Every expected error is one kind of exception: the same four parts, as text and as a problem document."""

from __future__ import annotations

import pickle

import pytest

from loradeck.artifacts.errors import BadArtifact
from loradeck.cli.shared.exits import misused
from loradeck.client.errors import ApiError, BlobDamaged, ClientError, ConfigError, HubUnreachable, OutcomeUnknown
from loradeck.rules.errors import Refused
from loradeck.schemas.fault import Fault
from loradeck.schemas.problem import Problem
from loradeck_agent.host.errors import AgentError
from loradeck_agent.router.switch import Unacceptable
from loradeck_agent.router.table import TableFault

PARTS = ("moved", "it has moved", "acme/production", "look again")

TEXTS: dict[str, tuple[Fault, str]] = {
    "refused": (Refused(*PARTS[:2], detail=PARTS[2], fix=PARTS[3]), "moved: it has moved"),
    "artifact": (BadArtifact(*PARTS), "it has moved: acme/production"),
    "agent": (AgentError(*PARTS), "moved: it has moved: acme/production"),
    "router": (Unacceptable(409, *PARTS), "moved: it has moved: acme/production"),
    "table": (TableFault(*PARTS), "moved: acme/production look again"),
    "client": (
        ClientError(PARTS[1], detail=PARTS[2], fix=PARTS[3], code=PARTS[0]),
        "it has moved\nacme/production\nlook again",
    ),
    "api": (
        ApiError(Problem(status=409, code=PARTS[0], title=PARTS[1], detail=PARTS[2], fix=PARTS[3])),
        "it has moved\nacme/production\nlook again",
    ),
    "command": (misused(PARTS[1], where=PARTS[2], fix=PARTS[3], code=PARTS[0]), "it has moved"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_an_error_has_a_code_a_title_a_detail_and_a_fix(kind: str) -> None:
    fault, text = TEXTS[kind]
    assert (fault.code, fault.title, fault.detail, fault.fix) == PARTS
    assert str(fault) == text
    assert fault.sentence == "it has moved; acme/production; look again"
    assert fault.as_problem(409) == Problem(
        status=409, code="moved", title="it has moved", detail="acme/production", fix="look again"
    )


def test_what_is_empty_is_left_out_of_the_text() -> None:
    assert str(AgentError("moved", "it has moved")) == "moved: it has moved"
    assert Fault("moved", "it has moved", fix="look again").sentence == "it has moved; look again"


def test_an_error_of_the_client_has_the_code_of_its_kind() -> None:
    kinds = (ClientError, ConfigError, HubUnreachable, BlobDamaged)
    assert [kind("x").code for kind in kinds] == ["usage", "settings", "hub_unreachable", "blob_damaged"]
    assert OutcomeUnknown("k" * 16, detail="hub").code == "outcome_unknown"


def test_an_error_survives_the_way_between_processes() -> None:
    again = pickle.loads(pickle.dumps(AgentError(*PARTS)))
    assert (type(again), again.args) == (AgentError, PARTS)
