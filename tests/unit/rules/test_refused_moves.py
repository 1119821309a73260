"""A refused backward move carries, for programs, where it would go now and what was passed over."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleets.in_process.log import OPERATOR, Acme, rid

from loradeck.rules.errors import Refused
from loradeck.rules.moves import rollbacks
from loradeck.rules.moves.rollback_target import Target
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.log import PointerState
from loradeck.schemas.manifest import Form
from loradeck.schemas.moves import FallbackRequest, RollbackRequest
from loradeck.schemas.state import Preview, PreviewAction, ReleaseView

POINTER = PointerState(tenant="acme", route="production", generation=7, release=rid("v2"), beneath=(rid("v1"),))
TO_V1 = Target(action=PreviewAction.ROLLBACK, release=rid("v1"))


def refused(target: Target, **request: Any) -> Refused:
    asked = RollbackRequest(expected_generation=7, idempotency_key="rollback-key", **request)
    with pytest.raises(Refused) as found:
        rollbacks.rollback(POINTER, asked, target, OPERATOR)
    return found.value


def test_a_target_that_changed_is_refused_with_the_new_one() -> None:
    fault = refused(TO_V1, to=rid("v0"))
    assert (fault.code, fault.context) == ("target_changed", {"action": "rollback", "to": rid("v1"), "prepare": None})
    assert fault.title == f"R now goes to {rid('v1')[:6]}; the request names {rid('v0')[:6]}"
    assert refused(TO_V1, to=None).title.endswith("the request names no target")
    pending = Target(action=PreviewAction.CANCEL_PREPARE, prepare="job-2")
    fault = refused(pending, cancels="job-1")
    assert fault.context == {"action": "cancel_prepare", "to": None, "prepare": "job-2"}
    assert "(job-2)" in fault.title
    assert "job-1 is not pending any more" in refused(TO_V1, to=rid("v1"), cancels="job-1").title


def test_only_a_target_that_cancels_a_prepare_cancels_one() -> None:
    with_prepare = Target(action=PreviewAction.ROLLBACK, release=rid("v1"), prepare="job-1")
    asked = RollbackRequest(expected_generation=7, idempotency_key="rollback-key", to=rid("v1"))
    assert not isinstance(rollbacks.rollback(POINTER, asked, with_prepare, OPERATOR), rollbacks.Cancel)


@pytest.mark.parametrize(
    ("action", "fix"), [(PreviewAction.NONE, "promote a fit"), (PreviewAction.FALLBACK, "the base alone")]
)
def test_without_a_way_back_the_refusal_lists_what_was_passed_over_and_the_way_out(
    action: PreviewAction, fix: str
) -> None:
    target = Target(
        action=action, release=rid("v1"), refused="no earlier release is fit", skipped=((rid("v1"), "breached"),)
    )
    fault = refused(target)
    assert (fault.code, fault.title) == ("no_prior", "no earlier release is fit")
    assert fault.detail == f"{rid('v1')[:6]} breached"
    assert fault.context == {"skipped": [[rid("v1"), "breached"]]}
    assert fix in fault.fix


def test_a_target_that_asks_is_refused_with_what_it_asks() -> None:
    fault = refused(Target(action=PreviewAction.ROLLBACK, release=rid("v1"), asks="not soaked"), to=rid("v1"))
    assert (fault.code, fault.title) == ("needs_confirmation", "R goes to a release that is not soaked")
    assert fault.context == {"to": rid("v1"), "asks": "not soaked"}
    assert rid("v1")[:6] in fault.detail


def test_a_fallback_that_is_not_allowed_names_the_route_and_the_setting(acme: Acme) -> None:
    request = FallbackRequest(expected_generation=7, idempotency_key="fallback-key")
    with pytest.raises(Refused) as found:
        rollbacks.fallback(POINTER, request, OPERATOR, rid("base"), allowed=False)
    assert found.value.code == "fallback_not_allowed"
    assert found.value.title.startswith("acme/production ")
    assert "`fallback`" in found.value.fix


def test_a_request_built_from_a_preview_cancels_nothing_but_what_the_preview_cancels() -> None:
    view = ReleaseView(id=rid("v1"), label="v1", form=Form.ADAPTER, base="b" * 64, base_label="B1")
    preview = Preview(action=PreviewAction.ROLLBACK, generation=7, target=view, prepare="job-1")
    request = rollback_request(preview, key="k" * 16)
    assert (request.to, request.cancels, request.reason, request.incident) == (rid("v1"), None, "", None)
