"""One builder of R from a preview: what it sends, what it confirms, and where it refuses."""

from __future__ import annotations

import pytest

from loradeck.rules.errors import Refused
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.manifest import Form
from loradeck.schemas.state import Preview, PreviewAction, ReleaseView

KEY = "k" * 16
TARGET = ReleaseView(id="a" * 64, label="v7", form=Form.ADAPTER, base="b" * 64, base_label="B1")
PREVIEW = Preview(action=PreviewAction.ROLLBACK, generation=4, target=TARGET, asks="not soaked")


def test_a_rollback_goes_to_the_previews_target_at_its_generation() -> None:
    request = rollback_request(PREVIEW, key=KEY, reason="bad answers", incident="INC-7")
    assert (request.to, request.cancels, request.expected_generation) == ("a" * 64, None, 4)
    assert (request.idempotency_key, request.reason, request.incident) == (KEY, "bad answers", "INC-7")


def test_it_confirms_what_the_preview_asks_unless_a_person_was_asked_or_not() -> None:
    silent = PREVIEW.model_copy(update={"asks": None})
    assert rollback_request(PREVIEW, key=KEY).confirmed
    assert not rollback_request(silent, key=KEY).confirmed
    assert not rollback_request(PREVIEW, key=KEY, confirmed=False).confirmed
    assert rollback_request(silent, key=KEY, confirmed=True).confirmed


def test_a_pending_prepare_is_cancelled_and_nothing_moves() -> None:
    cancelling = Preview(action=PreviewAction.CANCEL_PREPARE, generation=4, target=TARGET, prepare="job-1")
    request = rollback_request(cancelling, key=KEY)
    assert (request.to, request.cancels, request.expected_generation) == (None, "job-1", 4)


@pytest.mark.parametrize(
    ("action", "fix"), [(PreviewAction.NONE, "promote a fit"), (PreviewAction.FALLBACK, "the base alone")]
)
def test_a_preview_that_goes_nowhere_is_refused_with_its_own_reason(action: PreviewAction, fix: str) -> None:
    nowhere = Preview(action=action, generation=4, refused="nothing is live on this pointer")
    with pytest.raises(Refused, match="nothing is live on this pointer") as refusal:
        rollback_request(nowhere, key=KEY)
    assert refusal.value.code == "no_prior"
    assert fix in refusal.value.fix
