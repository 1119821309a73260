"""Rebase of R: whether a press that was decided on an older generation still stands.

A person decides on what the screen showed. What automation (the schedule of a candidate, guard) did since then must not
turn the key into a refusal; what another person did must.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import by_automation, expect_generation
from loradeck.rules.moves.rollback_target import Target
from loradeck.schemas.log import MOVES, Event, PointerState
from loradeck.schemas.moves import RollbackRequest
from loradeck.schemas.state import PreviewAction


@dataclass(frozen=True, kw_only=True)
class Already:
    """The outcome of R where automation was first: all callers get the target, by `event`, and nothing more moves."""

    event: Event


def rebase(
    request: RollbackRequest, pointer: PointerState, target: Target, since: Sequence[Event]
) -> RollbackRequest | Already:
    """Brings a press of R up to the pointer's present generation, for `rollbacks.rollback`.

    It stands if only automation has moved the pointer since, and R still goes where the person saw it go. Where all
    callers get that target already, the press has succeeded and never goes one further.

    Args:
        target: where R goes now.
        since: the pointer's events after the generation that the request expects, in order. If some are missing, the
            press does not stand: they could be a person's.

    Raises: Refused: moved, target_changed.
    """
    if request.expected_generation == pointer.generation:
        return request
    moves = [event for event in since if event.kind in MOVES]
    # Every move has a generation of its own, so as many as there are generations are all of them. The numbers are not
    # listed: a request may expect any generation, however far below.
    if len(moves) != pointer.generation - request.expected_generation or not all(map(by_automation, moves)):
        expect_generation(pointer, request.expected_generation)
    if request.to is not None and pointer.candidate is None and pointer.release == request.to:
        return Already(event=moves[-1])
    if request.to is None or target.action is not PreviewAction.ROLLBACK or target.release != request.to:
        raise Refused(
            "target_changed",
            "automation has moved the pointer since, and R goes elsewhere now",
            fix="look at the preview again and decide anew",
            context={"action": target.action.value, "to": target.release, "prepare": target.prepare},
        )
    return request.model_copy(update={"expected_generation": pointer.generation})
