"""Arms of a worksheet of `loradeck decide`: how the items of a suite are put to a release."""

from typing import Annotated

from pydantic import StringConstraints

from loradeck.schemas.ids import Strict, added

_Text = Annotated[str, StringConstraints(max_length=16_384)]


class Shot(Strict):
    """An example that a prompt shows."""

    prompt: _Text
    answer: _Text


class Arm(Strict):
    """An arm of a worksheet: how the items of a suite are put to a release. Empty: as they are."""

    system: _Text = added("", "what the system says first")
    shots: tuple[Shot, ...] = added((), "examples before the question", max_length=32)
    contexts: bool = added(False, "the texts that items carry are shown, and the answer cites one of them")
