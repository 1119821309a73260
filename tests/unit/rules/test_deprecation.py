"""What callers of a deprecated release are told, and which of them are named to the hub."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from loradeck.rules.serving.deprecation import headers, note
from loradeck.schemas.attestation import Deprecation
from loradeck.schemas.counts import CALLERS_NAMED
from loradeck.schemas.table import DeprecatedRelease

JUNE = 1_688_169_599_000


def test_answers_say_since_when_and_until_when_in_the_forms_of_their_standards() -> None:
    old = DeprecatedRelease(release="1" * 64, from_ms=JUNE)
    assert headers(old) == {"Deprecation": "@1688169599"}, "RFC 9745: seconds, as a structured date"
    ends = old.model_copy(update={"until_ms": JUNE + 86_400_000})
    assert headers(ends)["Sunset"] == "Sat, 01 Jul 2023 23:59:59 GMT", "RFC 8594: an HTTP date"


def test_callers_are_named_by_the_beginning_of_their_digest_and_the_last_ones_are_kept() -> None:
    called_by: dict[str, int] = {}
    for number in range(CALLERS_NAMED + 2):
        note(called_by, f"{number:016x} a user", number)
        note(called_by, f"{1:016x}", number)
    assert len(called_by) == CALLERS_NAMED
    assert called_by[f"{1:016x}"] == CALLERS_NAMED + 1
    assert f"{0:016x}" not in called_by
    assert f"{2:016x}" not in called_by
    assert f"{3:016x}" in called_by


def test_what_is_answered_until_a_day_before_it_is_deprecated_is_none() -> None:
    with pytest.raises(ValidationError, match="until_ms is before from_ms"):
        Deprecation(from_ms=2, until_ms=1, reason="new terms")
    assert "until_ms" not in Deprecation(from_ms=2, reason="new terms").model_dump()
