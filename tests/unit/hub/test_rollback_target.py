"""Where R goes, without a hub: by the rules, on the folded state, the facts and the pending prepares."""

from __future__ import annotations

import pytest

from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.progress.target_lookup import Prepare, Prepares, RollbackTargets
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.log import PointerState
from loradeck.schemas.state import PreviewAction

KEY = ("acme", "production")
V1, V2 = "1" * 64, "2" * 64
POINTER = PointerState(tenant=KEY[0], route=KEY[1], generation=2, release=V2, beneath=(V1,))


@pytest.fixture
def prepares() -> Prepares:
    return Prepares()


@pytest.fixture
def targets(prepares: Prepares) -> RollbackTargets:
    """R on a pointer that went from v1, attested and soaked, to v2."""
    facts = Facts()
    for kind, body in ((AttestationKind.ATTESTED, {"generation": 1, "n": 1, "m": 1}), (AttestationKind.SOAKED, {})):
        facts.add(Attestation(kind=kind, subject=V1, tenant=KEY[0], route=KEY[1], body=body, by="hub", at_ms=1))
    return RollbackTargets(FoldedLog(), Catalogue(), facts, prepares)


def test_r_goes_to_the_attested_release_beneath(targets: RollbackTargets) -> None:
    target = targets.of(POINTER)
    assert (target.action, target.release, target.asks) == (PreviewAction.ROLLBACK, V1, None)


def test_r_cancels_a_pending_prepare_first_and_an_ended_one_no_more(
    targets: RollbackTargets, prepares: Prepares
) -> None:
    prepares.begin(KEY, Prepare("p1", V1))
    assert (targets.of(POINTER).action, targets.of(POINTER).prepare) == (PreviewAction.CANCEL_PREPARE, "p1")
    prepares.end(KEY, "p0")
    assert prepares.pending(KEY) == "p1", "another prepare has ended"
    prepares.end(KEY, "p1")
    assert targets.of(POINTER).action is PreviewAction.ROLLBACK
